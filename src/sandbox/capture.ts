/** Boots a VM, rehearses it and saves it as a template: nothing of it is tied to this host's files but what a clone replaces. */
import { closeSync, ftruncateSync, openSync } from "node:fs";
import { QMP_CALL_TIMEOUT_MS, TEMPLATE_REST_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { sleep } from "../util/wait.ts";
import type { TemplateFiles } from "../vm/template-store.ts";
import { type BootRequest, greetAgent, launchVm, recordProcesses, shareDirectory } from "./boot.ts";
import { GUEST_SHARED_DIR } from "./guest-spec.ts";
import { rehearse } from "./rehearsal.ts";
import type { Steps } from "./steps.ts";

const MIB = 1024 * 1024;

/** In the place of a clone's shared directory, which cannot be saved: what mounting takes in the agent is then done. */
const REHEARSAL_STORAGE = { driver: "ephemeral", fstype: "tmpfs", source: "tmpfs", mountPoint: GUEST_SHARED_DIR };

/** The template's files are complete when this resolves, and the VM has gone. Returns the pid of its QEMU. */
export async function captureVm(
  request: BootRequest,
  template: TemplateFiles,
  steps: Steps,
  log: Log,
): Promise<number> {
  const { config, foundations, vmId } = request;
  await using stack = new AsyncDisposableStack();
  stack.use(foundations);
  makeMemoryFile(template.memory, config.memoryMib * MIB);
  // virtiofsd's device would forbid saving the VM; each clone gets its own. QEMU's 9p device does not, unmounted.
  const isCopied = template.kind === "copied";
  const shared = isCopied ? undefined : stack.use(await shareDirectory(request, steps, log));
  const memoryFile = { path: template.memory, access: "shared" } as const;
  const hypervisor = await steps.run("launch-qemu", config.bootTimeoutMs, async (signal) =>
    stack.use(
      await launchVm(
        request,
        {
          devices: shared === undefined ? [] : [shared.device],
          laterDevices: isCopied ? ["shared-directory-virtio-fs"] : [],
          memoryFile,
        },
        { log, signal },
      ),
    ),
  );
  recordProcesses(request, [hypervisor.process]);
  const agent = await greetAgent(request, hypervisor, steps);
  stack.defer(() => agent.close());
  await steps.run("rehearse", config.bootTimeoutMs, async (signal) => {
    await agent.agent.createSandbox({ sandboxId: vmId, hostname: vmId, storages: [REHEARSAL_STORAGE] }, { signal });
    await rehearse(agent, signal);
    await agent.agent.destroySandbox({}, { signal });
  });
  await steps.run("close-agent", config.bootTimeoutMs, async (signal) => {
    // A clone's agent must take a new connection at once: it has noticed the end of this one when it opens its port again.
    const reopened = hypervisor.agentReopened(signal);
    agent.close();
    await reopened;
    // What the rehearsal has left to do, and the agent until it waits for its next host, would be done in every clone.
    await sleep(TEMPLATE_REST_MS, signal);
  });
  await steps.run("pause", QMP_CALL_TIMEOUT_MS, (signal) => hypervisor.pause(signal));
  await steps.run("save", config.bootTimeoutMs, (signal) =>
    hypervisor.save({ statePath: template.state, ignoreShared: true }, signal),
  );
  return hypervisor.process.pid;
}

/** QEMU would make it readable for everybody. */
function makeMemoryFile(path: string, bytes: number): void {
  const fd = openSync(path, "wx", 0o600);
  try {
    ftruncateSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
}
