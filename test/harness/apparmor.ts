/**
 * AppArmor profiles for tests, compiled by the parser that hosts use, and a host that has them loaded: of its sysfs, the
 * files that are read for it, with real compiled profiles. So the rest is tried on machines whose kernel has no AppArmor;
 * test/test-host/apparmor.test.ts compares these files with those of a kernel that has.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mount, unmount } from "../../src/sys/mount.ts";
import { runProgram } from "./program.ts";

/** What the parser is to assume of the kernel, whichever it runs on. */
const FEATURES = "/etc/apparmor.d/abi/3.0";

/** A profile that allows everything but writing to the file `denied`. */
export function profileText(name: string, denied: string, more = ""): string {
  return `abi <abi/3.0>,
profile ${name} flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  signal,
  ptrace,
  unix,
  deny ${denied} w,
  ${more}
}
`;
}

/** As the kernel is given it. */
export async function compileProfile(text: string): Promise<Uint8Array> {
  const argv = ["apparmor_parser", "--skip-kernel-load", "--skip-cache", "--stdout", "--kernel-features", FEATURES];
  const { status, stderr, bytes } = await runProgram(argv, { stdin: text });
  if (status !== 0) throw new Error(`compile AppArmor profile: ${stderr}\n${text}`);
  return bytes;
}

/** The files of a sysfs. */
export class ProfileTree {
  readonly #sys: string;
  #loaded = 0;

  constructor(sys: string) {
    this.#sys = sys;
    mkdirSync(join(sys, "module/apparmor/parameters"), { recursive: true });
    writeFileSync(join(sys, "module/apparmor/parameters/enabled"), "Y\n");
    mkdirSync(this.#profiles, { recursive: true });
  }

  get #profiles(): string {
    return join(this.#sys, "kernel/security/apparmor/policy/profiles");
  }

  /** Without a binary it is one that the kernel keeps to itself. Returns its directory. */
  load(name: string, binary: Uint8Array | undefined): string {
    const dir = join(this.#profiles, `${name.replaceAll("/", ".").replace(/^\.+/, "")}.${this.#loaded++}`);
    mkdirSync(dir);
    writeFileSync(join(dir, "name"), `${name}\n`);
    if (binary !== undefined) writeFileSync(join(dir, "raw_data"), binary);
    return dir;
  }

  unload(dir: string): void {
    rmSync(dir, { recursive: true });
  }
}

/** Covers what this host has; for a test in a mount namespace of its own. */
export function hostWithApparmor(): ProfileTree & Disposable {
  const covered = ["/sys/module", "/sys/kernel/security"];
  for (const target of covered) mount({ source: "tmpfs", target, type: "tmpfs" });
  return Object.assign(new ProfileTree("/sys"), {
    [Symbol.dispose]: () => {
      for (const target of covered) unmount(target);
    },
  });
}
