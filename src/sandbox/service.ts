/** SandboxService on the wire: parses requests, asks the sandbox, answers. No decisions of its own. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { HearthError } from "../errors.ts";
import type { SandboxService, StepTimeSchema, VmState as WireState } from "../gen/sandbox_pb.ts";
import { OutputStream, VmState } from "../gen/sandbox_table.ts";
import { AGENT_CALL_TIMEOUT_MS, STREAM_CHUNK_BYTES_MAX } from "../limits.ts";
import { parseSpec } from "../oci/spec.ts";
import { encodeStats } from "../rpc/protocols.ts";
import type { HandlersOf } from "../rpc/ttrpc/service.ts";
import { isOwnMountNamespace } from "../sys/namespace.ts";
import { vmRecordOf } from "./record.ts";
import type { Sandbox, SandboxState } from "./sandbox.ts";

/** Steps since the last call of it, for the answer of Adopt and CreateContainer. */
export type TakeSteps = () => MessageInitShape<typeof StepTimeSchema>[];

export function sandboxService(sandbox: Sandbox, takeSteps: TakeSteps): HandlersOf<typeof SandboxService> {
  return {
    ...vmHandlers(sandbox, takeSteps),
    ...containerHandlers(sandbox, takeSteps),
    ...processHandlers(sandbox),
    ...streamHandlers(sandbox),
  };
}

type Handlers = HandlersOf<typeof SandboxService>;

function vmHandlers(sandbox: Sandbox, takeSteps: TakeSteps): Handlers {
  return {
    info: async () => ({
      vmId: sandbox.vm.vmId,
      state: wireState(sandbox.state),
      sandboxPid: BigInt(process.pid),
      qemuPid: BigInt(sandbox.vm.hypervisor.process.pid),
      vcpus: sandbox.vm.hypervisor.vcpus,
      memoryMib: sandbox.vm.hypervisor.memoryMib,
      identity: sandbox.vm.identity,
      containerIds: sandbox.containerIds,
      readyAtMs: BigInt(sandbox.readyAtMs),
    }),
    check: async (request) => {
      await sandbox.check(request.agent);
      return {};
    },
    lease: async (request) => {
      await sandbox.lease(request.token, request.leaseMs, request.agent);
      return {
        recordJson: new TextEncoder().encode(JSON.stringify(vmRecordOf(sandbox))),
        vcpus: sandbox.vm.hypervisor.vcpus,
        memoryMib: sandbox.vm.hypervisor.memoryMib,
      };
    },
    adopt: async (request, context) => {
      takeSteps();
      const { token, vcpus, memoryMib, cgroupDirs } = request;
      await sandbox.adopt({ token, vcpus, memoryMib, cgroupDirs }, context.connection);
      return { vcpus: sandbox.vm.hypervisor.vcpus, memoryMib: sandbox.vm.hypervisor.memoryMib, steps: takeSteps() };
    },
    connectNetwork: async ({ netnsPath: netns, loopbackNameServers, relayLocalhost }) =>
      await sandbox.connectNetwork({ netns, loopbackNameServers, relayLocalhost }),
    destroy: async (_request, context) => {
      sandbox.stayFor(context.answered);
      await sandbox.end("destroy asked for");
      return {};
    },
  };
}

function containerHandlers(sandbox: Sandbox, takeSteps: TakeSteps): Handlers {
  return {
    createContainer: async (request, context) => {
      takeSteps();
      const spec = parseSpec(new TextDecoder().decode(request.configJson), `${request.bundle}/config.json`);
      const { containerId: id, bundle, mountNamespace: path, descriptors } = request;
      const mountNamespace = path === "" || isOwnMountNamespace(path) ? undefined : path;
      const container = await sandbox.createContainer(
        { id, bundle, spec, owner: context.connection, mountNamespace, descriptors },
        { rows: request.terminalRows, columns: request.terminalColumns },
      );
      return { warnings: [...container.warnings], steps: takeSteps() };
    },
    commitContainer: async (request) => {
      sandbox.commitContainer(request.containerId, Number(request.shimPid));
      return {};
    },
    startContainer: async (request) => {
      await sandbox.startContainer(request.containerId);
      return {};
    },
    deleteContainer: async (request, context) => {
      sandbox.stayFor(context.answered);
      return { vmEnded: await sandbox.deleteContainer(request.containerId, request.force) };
    },
    pauseContainer: async (request) => {
      await sandbox.container(request.containerId).pause();
      return {};
    },
    resumeContainer: async (request) => {
      await sandbox.container(request.containerId).resume();
      return {};
    },
    updateContainer: async (request) => {
      await sandbox.updateContainer(request.containerId, request.resourcesJson);
      return {};
    },
    containerStats: async (request) => {
      sandbox.container(request.containerId);
      const stats = await sandbox.vm.agent.agent.statsContainer(
        { containerId: request.containerId },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      );
      return { stats: encodeStats(stats) };
    },
    waitOom: async (request, context) => {
      await sandbox.waitOom(request.containerId, context.signal);
      return {};
    },
    listProcesses: async (request) => {
      sandbox.container(request.containerId);
      const { containerId, format, args } = request;
      const { processList } = await sandbox.vm.agent.agent.listProcesses(
        { containerId, format, args },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      );
      return { processList };
    },
  };
}

function processHandlers(sandbox: Sandbox): Handlers {
  return {
    execProcess: async (request, context) => {
      return { warnings: await sandbox.container(request.containerId).exec(request, context.connection) };
    },
    signalProcess: async (request) => {
      await sandbox.container(request.containerId).signal(request.execId, request.signal, request.all);
      return {};
    },
    waitProcess: async (request, context) => {
      const container = sandbox.container(request.containerId);
      const owner = request.owner ? context.connection : undefined;
      return { exitStatus: await container.wait(request.execId, owner, context.signal) };
    },
  };
}

function streamHandlers(sandbox: Sandbox): Handlers {
  const agent = sandbox.vm.agent.agent;
  const target = (request: { readonly containerId: string; readonly execId: string; readonly descriptor?: number }) => {
    const { containerId, execId, descriptor = 0 } = request;
    sandbox.container(containerId).process(execId);
    return { containerId, execId: execId || containerId, descriptor };
  };
  return {
    writeStdin: async (request, context) => {
      const { len } = await agent.writeStdin({ ...target(request), data: request.data }, { signal: context.signal });
      return { written: len };
    },
    closeStdin: async (request) => {
      await agent.closeStdin(target(request), { timeoutMs: AGENT_CALL_TIMEOUT_MS });
      return {};
    },
    closeOutput: async (request) => {
      await agent.closeOutput(target(request), { timeoutMs: AGENT_CALL_TIMEOUT_MS });
      return {};
    },
    readOutput: async (request, context) => {
      const len = Math.min(Math.max(request.lengthMax, 1), STREAM_CHUNK_BYTES_MAX);
      const read = request.stream === OutputStream.STDERR ? agent.readStderr : agent.readStdout;
      try {
        const { data, eof, closed } = await read({ ...target(request), len }, { signal: context.signal });
        return { data, eof, closed };
      } catch (error) {
        if (error instanceof HearthError && error.code === "out-of-range") return { eof: true };
        throw error;
      }
    },
    resizeTerminal: async (request) => {
      await agent.ttyWinResize(
        { ...target(request), row: request.rows, column: request.columns },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      );
      return {};
    },
  };
}

function wireState(state: SandboxState): WireState {
  switch (state.kind) {
    case "idle":
      return VmState.IDLE;
    case "leased":
      return VmState.LEASED;
    case "adopted":
      return VmState.ADOPTED;
    case "ending":
      return VmState.ENDING;
  }
}
