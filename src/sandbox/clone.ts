/** Makes a VM of a saved one: what `bootVm` does, with the guest continued from where it was saved instead of booted. */
import { writeFileSync } from "node:fs";
import { type AgentClient, connectAgent } from "../agent/client/client.ts";
import { assert } from "../errors.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import { QMP_CALL_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import type { SharedDirectory } from "../storage/shared-directory.ts";
import { copyToMemory } from "../sys/memory-file.ts";
import { ownIdentity } from "../sys/process-identity.ts";
import { withDeadline } from "../util/wait.ts";
import type { TemplateFiles } from "../vm/template-store.ts";
import { Vm } from "../vm/vm.ts";
import {
  agentAddress,
  type BootRequest,
  createSandbox,
  greetAgent,
  launchVm,
  recordProcesses,
  sandboxRequest,
  shareDirectory,
} from "./boot.ts";
import type { Steps } from "./steps.ts";

/** As bootVm. The guest's memory is the template's: it must be repaired before anything of a user's runs in it. */
export async function cloneVm(request: BootRequest, template: TemplateFiles, steps: Steps, log: Log): Promise<Vm> {
  const { foundations, paths } = request;
  await using stack = new AsyncDisposableStack();
  stack.use(foundations);
  const shared = stack.use(await shareDirectory(request, steps, log));
  // The kernel's own is part of the memory; containers get this one in its place. See guest-spec.ts.
  writeFileSync(paths.bootId, `${crypto.randomUUID()}\n`, { mode: 0o444 });
  const hypervisor = stack.use(await restore(request, template, shared, steps, log));
  recordProcesses(request, [...shared.processes, hypervisor.process]);
  await steps.run("resume", QMP_CALL_TIMEOUT_MS, (signal) => hypervisor.resume(signal));
  const agent = await openGuest(request, hypervisor, shared, steps, stack);
  stack.move();
  const owner = ownIdentity();
  return new Vm({ ...request, agentAddress: agentAddress(request), hypervisor, agent, shared, owner, isClone: true });
}

/** The agent has answered and the sandbox is created. Its client is closed by `stack`. */
async function openGuest(
  request: BootRequest,
  hypervisor: Hypervisor,
  shared: SharedDirectory,
  steps: Steps,
  stack: AsyncDisposableStack,
): Promise<AgentClient> {
  const { transport, bootTimeoutMs } = request.config;
  if (transport === "vsock") {
    // A connection may be reset until the clone knows its own address: one call after the other.
    const agent = await greetAgent(request, hypervisor, steps);
    stack.defer(() => agent.close());
    await createSandbox(request, agent, shared, steps);
    return agent;
  }
  const { agent, created } = await greetAndCreate(request, hypervisor, shared, steps);
  stack.defer(() => agent.close());
  await steps.run("create-sandbox", bootTimeoutMs, (signal) => withDeadline("create sandbox", created, { signal }));
  return agent;
}

/**
 * The agent's port is open since the template was saved: nothing is waited for. Greeting and CreateSandbox go together,
 * so that the guest, whose code is all translated anew, need not go to sleep and wake up between them.
 */
async function greetAndCreate(
  request: BootRequest,
  hypervisor: Hypervisor,
  shared: SharedDirectory,
  steps: Steps,
): Promise<{ readonly agent: AgentClient; readonly created: Promise<unknown> }> {
  return await steps.run("wait-for-agent", request.config.bootTimeoutMs, async (signal) => {
    const given = new AbortController();
    let created: Promise<unknown> | undefined;
    const alongside = (client: AgentClient): void => {
      created = client.agent.createSandbox(sandboxRequest(request.vmId, shared));
      // Of an attempt that failed nobody asks.
      created.catch(() => undefined);
    };
    try {
      const connecting = connectAgent(agentAddress(request), {
        signal: AbortSignal.any([signal, given.signal]),
        alongside,
      });
      // It tells of QEMU's end too.
      const [agent] = await Promise.all([connecting, hypervisor.agentReady(signal)]);
      assert(created !== undefined, "the greeting was not sent alone");
      return { agent, created };
    } finally {
      given.abort();
    }
  });
}

async function restore(
  request: BootRequest,
  template: TemplateFiles,
  shared: SharedDirectory,
  steps: Steps,
  log: Log,
): Promise<Hypervisor> {
  const { config } = request;
  const options = { restore: { statePath: template.state, ignoreShared: true } };
  return await steps.run("restore", config.bootTimeoutMs, async (signal) => {
    if (template.kind === "copy-on-write") {
      const memoryFile = { path: template.memory, access: "copy-on-write" } as const;
      return await launchVm(request, { ...options, devices: [shared.device], memoryFile }, { log, signal });
    }
    using memory = copyToMemory(template.memory, "vm.mem");
    await using undo = new AsyncDisposableStack();
    const hypervisor = undo.use(
      await launchVm(request, { ...options, memoryFd: memory.fd, laterDevices: [shared.device.kind] }, { log, signal }),
    );
    await hypervisor.addDevice(shared.device, signal);
    undo.move();
    return hypervisor;
  });
}
