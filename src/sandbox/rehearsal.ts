/**
 * A throw-away container run in a VM before it is put aside: the programs, libraries and (emulated) the translated code that
 * the first real container needs are then already there. Nothing of it is left in the guest.
 */
import type { AgentClient } from "../agent/client/client.ts";
import { HearthError } from "../errors.ts";
import type { Spec } from "../oci/spec.ts";
import { repairGuest } from "./repair.ts";

const REHEARSAL_ID = "hearth-rehearsal";
const REHEARSAL_ROOTFS = "/usr/share/hearth/rehearsal/rootfs";

/** The shape engines use, so that the same paths are walked. */
const REHEARSAL_SPEC: Spec = {
  ociVersion: "1.0.2",
  process: {
    terminal: false,
    user: { uid: 0, gid: 0 },
    args: ["/bin/sh", "-c", "echo rehearsed; read line; exit 0"],
    env: ["PATH=/bin"],
    cwd: "/",
    noNewPrivileges: true,
    capabilities: { bounding: ["CAP_KILL"], effective: ["CAP_KILL"], permitted: ["CAP_KILL"] },
    rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
  },
  root: { path: REHEARSAL_ROOTFS, readonly: true },
  hostname: "rehearsal",
  mounts: [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
  ],
  linux: {
    cgroupsPath: `/hearth/${REHEARSAL_ID}`,
    namespaces: [{ type: "pid" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }],
    maskedPaths: ["/proc/kcore"],
    readonlyPaths: ["/proc/sys"],
    seccomp: {
      defaultAction: "SCMP_ACT_ALLOW",
      architectures: ["SCMP_ARCH_X86_64"],
      syscalls: [{ names: ["kexec_load"], action: "SCMP_ACT_ERRNO" }],
    },
  },
};

/** Fails when the rehearsal does: a VM that cannot run this cannot run anything. */
export async function rehearse(agent: AgentClient, signal: AbortSignal): Promise<void> {
  // The calls that every adopter makes first: what binding to the C library takes in the agent is then done.
  await repairGuest(agent, signal);
  const id = { containerId: REHEARSAL_ID, execId: REHEARSAL_ID };
  const ociJson = new TextEncoder().encode(JSON.stringify(REHEARSAL_SPEC));
  await agent.agent.createContainer({ ...id, ociJson }, { signal });
  try {
    await agent.agent.startContainer({ containerId: REHEARSAL_ID }, { signal });
    const { data } = await agent.agent.readStdout({ ...id, len: 64 }, { signal });
    const output = new TextDecoder().decode(data);
    if (output !== "rehearsed\n")
      throw new HearthError("internal", `rehearse: container wrote ${JSON.stringify(output)}`);
    await rehearseExec(agent, signal);
    await agent.agent.closeStdin(id, { signal });
    await agent.agent.waitProcess(id, { signal });
  } finally {
    await agent.agent.removeContainer({ containerId: REHEARSAL_ID, timeout: 10 }, { signal });
  }
}

async function rehearseExec(agent: AgentClient, signal: AbortSignal): Promise<void> {
  const id = { containerId: REHEARSAL_ID, execId: "exec" };
  const process = { ...REHEARSAL_SPEC.process, args: ["/bin/true"] };
  await agent.agent.execProcess({ ...id, processJson: new TextEncoder().encode(JSON.stringify(process)) }, { signal });
  const { status } = await agent.agent.waitProcess(id, { signal });
  if (status !== 0) throw new HearthError("internal", `rehearse: exec process ended with ${status}`);
}
