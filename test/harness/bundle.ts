/** OCI bundles for tests: a busybox root file system and a config.json as engines write it, with a test's own changes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeRootfs } from "./busybox.ts";

/** What a test asks for; everything else is what `runc spec` writes. */
export interface BundleOptions {
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly cwd?: string;
  readonly terminal?: boolean;
  readonly hostname?: string;
  /** Replaces members of the configuration, one level deep: `{ linux: { resources: … } }` keeps the namespaces. */
  readonly config?: Readonly<Record<string, unknown>>;
}

const CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

const MOUNTS = [
  { destination: "/proc", type: "proc", source: "proc" },
  {
    destination: "/dev",
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
  },
  {
    destination: "/dev/pts",
    type: "devpts",
    source: "devpts",
    options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
  },
  {
    destination: "/dev/shm",
    type: "tmpfs",
    source: "shm",
    options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
  },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
] as const;

/** The configuration that `makeBundle` writes. */
export function bundleConfig(options: BundleOptions): Record<string, unknown> {
  const base: Record<string, unknown> = {
    ociVersion: "1.0.2",
    process: {
      terminal: options.terminal ?? false,
      user: { uid: 0, gid: 0 },
      args: options.args,
      env: options.env ?? ["PATH=/bin:/usr/bin", "TERM=xterm"],
      cwd: options.cwd ?? "/",
      capabilities: {
        bounding: CAPABILITIES,
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
      },
      noNewPrivileges: true,
    },
    root: { path: "rootfs" },
    hostname: options.hostname ?? "hearth-test",
    mounts: MOUNTS,
    linux: {
      namespaces: ["pid", "network", "ipc", "uts", "mount"].map((type) => ({ type })),
      maskedPaths: ["/proc/kcore", "/proc/sched_debug", "/sys/firmware"],
      readonlyPaths: ["/proc/bus", "/proc/sys"],
    },
  };
  for (const [name, value] of Object.entries(options.config ?? {})) {
    const old = base[name];
    base[name] = isObject(old) && isObject(value) ? { ...old, ...value } : value;
  }
  return base;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Makes the bundle in `dir` and returns `dir`. */
export async function makeBundle(dir: string, options: BundleOptions): Promise<string> {
  mkdirSync(dir, { recursive: true });
  await makeRootfs(join(dir, "rootfs"));
  writeFileSync(join(dir, "config.json"), JSON.stringify(bundleConfig(options), undefined, 2));
  return dir;
}
