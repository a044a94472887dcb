/** Runs the scripted sandbox process of test/fixtures in a directory of its own, and looks for what it left behind. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { vmIds } from "../../src/vm/collect.ts";
import type { VmConfig } from "../../src/vm/vm-config.ts";
import type { SandboxScript } from "../fixtures/sandbox-process.ts";
import { scratch } from "./scratch.ts";

export const VM_CONFIG: VmConfig = {
  hypervisor: "qemu",
  qemuPath: "/usr/bin/qemu-system-x86_64",
  machine: "q35",
  accel: "tcg",
  kernel: "/guest/vmlinux",
  initrd: "/guest/initrd.cpio",
  image: "/guest/rootfs.erofs",
  guestDigest: "00",
  programsDigest: "00",
  hearthVersion: "0.1.0",
  kernelParams: ["quiet"],
  vcpus: 1,
  maxVcpus: 2,
  memoryMib: 256,
  maxMemoryMib: 512,
  sharedFs: "virtio-9p",
  virtiofsdPath: "",
  transport: "virtio-serial",
  seccomp: true,
  bootTimeoutMs: 20_000,
};

export interface SandboxFixture extends Disposable {
  readonly dir: string;
  readonly runDir: string;
  /** For LaunchOptions.argv. */
  readonly argv: [string, ...string[]];
  /** From now on sandbox processes behave so. */
  script(script: SandboxScript): void;
  /** Ids of the VMs launched so far, in order. */
  launches(): string[];
  /** What each of them was to be: "leased", "idle", "capture", "leased clone", "idle clone". */
  modes(): string[];
  /** What all of them were asked, in order: "check", "lease", "lease with agent". */
  calls(): string[];
  /** Everything in the run directory and every process that mentions it; a VM that was cleaned up leaves neither. */
  leftovers(): string[];
}

export function sandboxFixture(): SandboxFixture {
  const dir = scratch();
  const runDir = dir.path("run");
  const scriptPath = dir.path("script.json");
  writeFileSync(scriptPath, "{}");
  const program = join(import.meta.dir, "..", "fixtures", "sandbox-process.ts");
  return {
    dir: dir.dir,
    runDir,
    argv: [process.execPath, program, scriptPath],
    script: (script) => writeFileSync(scriptPath, JSON.stringify(script)),
    modes: () => linesOf(`${scriptPath}.modes`),
    launches: () => linesOf(`${scriptPath}.launches`),
    calls: () => linesOf(`${scriptPath}.calls`),
    leftovers: () => [
      ...vmIds(runDir).map((id) => `directory ${id}`),
      ...(existsSync(runDir) ? readdirSync(runDir).filter((name) => name.startsWith(".")) : []),
      ...processesMentioning(scriptPath).map((pid) => `process ${pid}`),
    ],
    [Symbol.dispose]: () => {
      for (const pid of processesMentioning(scriptPath)) process.kill(pid, "SIGKILL");
      dir[Symbol.dispose]();
    },
  };
}

function linesOf(path: string): string[] {
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
}

/** Living processes with this argument; the sleeping child in QEMU's place is one too. */
export function processesMentioning(argument: string): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => pid !== process.pid && commandLine(pid).includes(argument));
}

function commandLine(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}
