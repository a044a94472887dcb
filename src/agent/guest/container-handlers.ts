/** The calls about containers and their processes. */

import { HearthError } from "../../errors.ts";
import type { AgentService, CreateContainerRequest, ExecProcessRequest } from "../../gen/agent_pb.ts";
import { PRESERVED_FDS_MAX } from "../../limits.ts";
import { parseOciJson, stringifyOciJson } from "../../oci/json.ts";
import type { CallContext, HandlersOf } from "../../rpc/ttrpc/service.ts";
import { type FdUse, parseFdUse } from "../../sys/carried-fd.ts";
import { KILLED_STATUS, SIGNAL_NUMBER_MAX } from "../../sys/signals.ts";
import { withDeadline } from "../../util/wait.ts";
import { programNotFound } from "./exec-failure.ts";
import type { GuestSandbox } from "./guest-sandbox.ts";
import { isRecord, type JsonRecord } from "./json-record.ts";
import type { OutputStream } from "./stdio.ts";

type AllHandlers = Required<HandlersOf<typeof AgentService>>;
type ContainerHandlers = Pick<
  AllHandlers,
  | "createContainer"
  | "startContainer"
  | "removeContainer"
  | "execProcess"
  | "signalProcess"
  | "waitProcess"
  | "updateContainer"
  | "statsContainer"
  | "pauseContainer"
  | "resumeContainer"
  | "writeStdin"
  | "readStdout"
  | "readStderr"
  | "closeStdin"
  | "closeOutput"
  | "ttyWinResize"
  | "listProcesses"
  | "getOOMEvent"
>;

export function containerHandlers(sandbox: GuestSandbox): ContainerHandlers {
  return {
    ...lifeHandlers(sandbox),
    ...stdioHandlers(sandbox),
    async updateContainer({ containerId, resources, resourcesJson }) {
      const container = sandbox.container(containerId);
      await container.update(await updateText(resources, resourcesJson, containerId));
      return {};
    },
    async statsContainer({ containerId }) {
      const container = sandbox.container(containerId);
      const { containerStats } = await import("./stats.ts");
      return containerStats(container.cgroupDir);
    },
    async listProcesses({ containerId, format, args }) {
      const container = sandbox.container(containerId);
      const { processList } = await import("./process-list.ts");
      return { processList: processList(container.pids(), format, args) };
    },
    async getOOMEvent(_request, { signal }) {
      return { containerId: await sandbox.oomEvents.next(signal) };
    },
  };
}

type LifeHandlers = Pick<
  AllHandlers,
  | "createContainer"
  | "startContainer"
  | "removeContainer"
  | "execProcess"
  | "signalProcess"
  | "waitProcess"
  | "pauseContainer"
  | "resumeContainer"
>;

function lifeHandlers(sandbox: GuestSandbox): LifeHandlers {
  return {
    async createContainer(request, { signal }) {
      refuseUnsupported(request);
      await sandbox.create(
        {
          id: request.containerId,
          config: await configSource(request),
          storages: request.storages,
          devices: request.devices,
          sharedPidNamespace: request.sandboxPidns,
          descriptors: fdUses(request.descriptors),
        },
        signal,
      );
      return {};
    },
    async startContainer({ containerId }) {
      await sandbox.container(containerId).start();
      return {};
    },
    async removeContainer({ containerId, timeout }) {
      await sandbox.remove(containerId, timeout);
      return {};
    },
    async execProcess(request) {
      refuseUnsupported(request);
      const process = await processSource(request);
      const { containerId, execId, cgroup, descriptors } = request;
      await sandbox.container(containerId).exec(execId, process, cgroup, fdUses(descriptors));
      return {};
    },
    signalProcess({ containerId, execId, signal }) {
      if (signal < 1 || signal > SIGNAL_NUMBER_MAX) {
        throw new HearthError("invalid-argument", `signal container ${containerId}: no signal ${signal}`);
      }
      const container = sandbox.container(containerId);
      if (execId === "") container.signalAll(signal);
      else container.signal(execId, signal);
      return {};
    },
    async waitProcess({ containerId, execId }, { signal }) {
      const { exitCode } = sandbox.container(containerId).process(execId);
      const status = await withDeadline("end of process", exitCode, { signal });
      // For who wants to know whether that was why.
      if (status === KILLED_STATUS) sandbox.oomEvents.look(containerId);
      return { status };
    },
    async pauseContainer({ containerId }, { signal }) {
      await sandbox.container(containerId).setFrozen(true, signal);
      return {};
    },
    async resumeContainer({ containerId }, { signal }) {
      await sandbox.container(containerId).setFrozen(false, signal);
      return {};
    },
  };
}

type StdioHandlers = Pick<
  AllHandlers,
  "writeStdin" | "readStdout" | "readStderr" | "closeStdin" | "closeOutput" | "ttyWinResize"
>;

function stdioHandlers(sandbox: GuestSandbox): StdioHandlers {
  const processOf = ({ containerId, execId }: { containerId: string; execId: string }) =>
    sandbox.container(containerId).process(execId);
  const stdio = (request: { containerId: string; execId: string }) => processOf(request).stdio;
  const input = (request: { containerId: string; execId: string; descriptor: number }) => {
    const { descriptor } = request;
    return descriptor === 0 ? stdio(request).stdin : processOf(request).preserved.at(descriptor);
  };
  return {
    async writeStdin(request, { signal }) {
      await input(request).write(request.data, signal);
      return { len: request.data.length };
    },
    async readStdout(request, context) {
      const { descriptor, len } = request;
      if (descriptor === 0) return await readOutput(stdio(request).stdout, len, context);
      return await processOf(request).preserved.at(descriptor).read(len, context.signal);
    },
    async readStderr(request, context) {
      return await readOutput(stdio(request).stderr, request.len, context);
    },
    async closeStdin(request, { signal }) {
      await input(request).closeAfterWrites(signal);
      return {};
    },
    closeOutput(request) {
      const { descriptor } = request;
      if (descriptor === 1 || descriptor === 2) stdio(request).closeOutput(descriptor);
      else processOf(request).preserved.at(descriptor).closeOutput();
      return {};
    },
    ttyWinResize(request) {
      stdio(request).resize({ rows: request.row, columns: request.column });
      return {};
    },
  };
}

async function readOutput(
  stream: OutputStream | undefined,
  max: number,
  { signal }: CallContext,
): Promise<{ data: Uint8Array }> {
  const data = stream === undefined ? null : await stream.read(max, signal);
  if (data === null) throw new HearthError("out-of-range", "end of stream");
  return { data };
}

function fdUses(descriptors: readonly number[]): FdUse[] {
  if (descriptors.length <= PRESERVED_FDS_MAX) return descriptors.map(parseFdUse);
  throw new HearthError("invalid-argument", `start process: ${descriptors.length} descriptors for it`);
}

/** Parts of the protocol that would be dropped silently: the host does them otherwise. */
function refuseUnsupported(request: CreateContainerRequest | ExecProcessRequest): void {
  const unsupported = [
    request.stringUser === undefined ? "" : "string_user",
    request.stdinPort + request.stdoutPort + request.stderrPort === 0 ? "" : "ports for standard streams",
    "sharedMounts" in request && request.sharedMounts.length > 0 ? "shared_mounts" : "",
  ].filter((name) => name !== "");
  if (unsupported.length === 0) return;
  const what = `start process of container ${request.containerId}`;
  throw new HearthError("unimplemented", `${what}: ${unsupported.join(", ")} not supported`);
}

/** The configuration as JSON text, or as a value when it came as protobuf. */
async function configSource(request: CreateContainerRequest): Promise<Parameters<GuestSandbox["create"]>[0]["config"]> {
  if (request.ociJson.length > 0) return { text: new TextDecoder().decode(request.ociJson) };
  if (request.OCI === undefined) {
    throw new HearthError("invalid-argument", `create container ${request.containerId}: no OCI configuration`);
  }
  const { ociFromSpec } = await import("./oci-from-grpc.ts");
  return { value: ociFromSpec(request.OCI) };
}

async function processSource(request: ExecProcessRequest): Promise<JsonRecord> {
  const value: unknown = await processValue(request);
  const args = isRecord(value) ? value["args"] : undefined;
  if (!isRecord(value) || !Array.isArray(args) || args.length === 0) {
    throw new HearthError("invalid-argument", `start process ${request.execId}: process.args is empty`);
  }
  if (args[0] === "") throw programNotFound("", "the name is empty");
  return value;
}

async function processValue({ execId, process, processJson }: ExecProcessRequest): Promise<unknown> {
  if (processJson.length > 0) return parseOciJson(new TextDecoder().decode(processJson), `process ${execId}`);
  if (process === undefined) throw new HearthError("invalid-argument", `start process ${execId}: no OCI process`);
  const { ociFromProcess } = await import("./oci-from-grpc.ts");
  return ociFromProcess(process);
}

async function updateText(
  resources: Parameters<AllHandlers["updateContainer"]>[0]["resources"],
  json: Uint8Array,
  id: string,
): Promise<string> {
  if (json.length > 0) return new TextDecoder().decode(json);
  if (resources === undefined) throw new HearthError("invalid-argument", `update container ${id}: no resources`);
  const { ociFromResources } = await import("./oci-from-grpc.ts");
  return stringifyOciJson(ociFromResources(resources));
}
