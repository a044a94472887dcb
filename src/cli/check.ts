/** `hearth check`: goes through what a VM needs on this host and says what is missing. Changes nothing but the guest's unpacking. */
import { statfsSync } from "node:fs";
import type { HearthConfig } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { HearthError } from "../errors.ts";
import { checkQemuVersion, formatVersion, probeQemuVersion } from "../hypervisor/qemu/version.ts";
import { silentLog } from "../log.ts";
import { VHOST_VSOCK } from "../sys/vsock.ts";
import { checkSharedFs, checkTransport, readHostFacts, resolveVmConfig } from "../vm/resolve-config.ts";
import { findTemplate } from "../vm/template-store.ts";
import { vmCacheStatus } from "../vmcache/control.ts";
import { defineHostCommand } from "./main.ts";
import { formatTable, writeOut } from "./output.ts";
import { errorLine } from "./report-error.ts";
import { refusePositionals } from "./usage-error.ts";

type Verdict = "ok" | "warning" | "missing";

interface Finding {
  readonly what: string;
  readonly verdict: Verdict;
  readonly detail: string;
}

export const command = defineHostCommand({
  flags: { json: { type: "boolean", help: "print JSON" } },
  positionals: "",
  async run(context, flags, positionals) {
    refusePositionals(positionals);
    const findings = await examineHost(context.configPath);
    const rows = findings.map(({ what, verdict, detail }) => [what, verdict, detail]);
    await writeOut(
      flags.json ? `${JSON.stringify(findings, null, 2)}\n` : formatTable([["CHECK", "RESULT", "DETAIL"], ...rows]),
    );
    return findings.some(({ verdict }) => verdict === "missing") ? 1 : 0;
  },
});

async function examineHost(configPath: string | undefined): Promise<Finding[]> {
  const findings = [await finding("root", async () => checkRoot())];
  let config: HearthConfig;
  try {
    config = await loadConfig({ flag: configPath, environment: process.env["HEARTH_CONFIG"] });
  } catch (thrown) {
    return [...findings, { what: "configuration", verdict: "missing", detail: errorLine(thrown) }];
  }
  const host = readHostFacts();
  const { hypervisor, runtime } = config;
  findings.push(
    { what: "configuration", verdict: "ok", detail: "read and checked" },
    await checkQemu(hypervisor.path),
    host.kvm.usable
      ? { what: "kvm", verdict: "ok", detail: "usable" }
      : { what: "kvm", verdict: hypervisor.accel === "kvm" ? "missing" : "warning", detail: host.kvm.reason },
    await finding("transport", async () =>
      checkTransport(config, host) === "vsock" ? `vsock by ${VHOST_VSOCK}` : "virtio-serial",
    ),
    await finding("shared directory", async () => {
      checkSharedFs(config, host);
      return hypervisor.shared_fs === "virtio-fs"
        ? `virtio-fs by ${hypervisor.virtio_fs_daemon || host.virtiofsd}`
        : hypervisor.shared_fs;
    }),
    await finding("guest", async () => {
      const vm = await resolveVmConfig(config, silentLog);
      return `${vm.kernel}, digest ${vm.guestDigest.slice(0, 12)}`;
    }),
    checkMemory(hypervisor.default_memory, host.memoryMib),
    checkRunDir(runtime.run_dir),
    await checkPool(config),
    await checkTemplate(config),
  );
  return findings;
}

async function finding(what: string, check: () => Promise<string>): Promise<Finding> {
  try {
    return { what, verdict: "ok", detail: await check() };
  } catch (thrown) {
    return { what, verdict: "missing", detail: errorLine(thrown) };
  }
}

function checkRoot(): string {
  if (process.geteuid?.() === 0) return "yes";
  throw new HearthError("permission-denied", "run VMs: only root may");
}

/** Too old is an error of the version check itself; old but not known to fail is a warning. */
async function checkQemu(path: string): Promise<Finding> {
  const what = "qemu";
  try {
    const version = await probeQemuVersion(path);
    const warning = checkQemuVersion(version, path);
    return warning === undefined
      ? { what, verdict: "ok", detail: `${path}, version ${formatVersion(version)}` }
      : { what, verdict: "warning", detail: warning };
  } catch (thrown) {
    return { what, verdict: "missing", detail: errorLine(thrown) };
  }
}

/** Without a server containers start all the same, only later: a warning. */
async function checkPool({ factory }: HearthConfig): Promise<Finding> {
  const what = "pool";
  const number = factory.vm_cache_shapes.reduce((sum, shape) => sum + shape.number, 0) || factory.vm_cache_number;
  if (number === 0) return { what, verdict: "ok", detail: "not configured" };
  try {
    const { pid, idle } = await vmCacheStatus(factory.vm_cache_endpoint);
    return { what, verdict: "ok", detail: `server ${pid}, ${idle.length} of ${number} VMs ready` };
  } catch (thrown) {
    return { what, verdict: "warning", detail: errorLine(thrown) };
  }
}

/** Without one containers start all the same, only later: a warning. */
async function checkTemplate(config: HearthConfig): Promise<Finding> {
  const what = "template";
  const { enable_template: isEnabled, template_path: path } = config.factory;
  if (!isEnabled) return { what, verdict: "ok", detail: "not enabled" };
  try {
    findTemplate(path, await resolveVmConfig(config, silentLog));
    return { what, verdict: "ok", detail: `ready in ${path}` };
  } catch (thrown) {
    return { what, verdict: "warning", detail: errorLine(thrown) };
  }
}

function checkMemory(wantedMib: number, hostMib: number): Finding {
  const detail = `${wantedMib} MiB for a VM, ${hostMib} MiB on this host`;
  return { what: "memory", verdict: wantedMib < hostMib ? "ok" : "missing", detail };
}

/** Source: linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;

/** The run directory itself may not exist yet: its nearest existing parent tells where it will be. */
function checkRunDir(runDir: string): Finding {
  for (let dir = runDir; ; dir = dir.replace(/\/[^/]*$/, "") || "/") {
    try {
      const onTmpfs = statfsSync(dir).type === TMPFS_MAGIC;
      return onTmpfs
        ? { what: "run directory", verdict: "ok", detail: `${runDir} on tmpfs` }
        : { what: "run directory", verdict: "warning", detail: `${runDir} is not on tmpfs: records outlive a reboot` };
    } catch (thrown) {
      if (dir === "/") return { what: "run directory", verdict: "missing", detail: errorLine(thrown) };
    }
  }
}
