/** The programs that are timed. */
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Hearth } from "../test/harness/hearth.ts";
import { PATH } from "../test/harness/program.ts";
import { type Launch, wholeProcess } from "./measure.ts";

const QEMU = "/usr/bin/qemu-system-x86_64";

let runs = 0;

export function run(hearth: Hearth, bundle: string, config: string): Launch {
  return runtime(hearth, ["--config", config, "run", "--bundle", bundle, `bench-${++runs}`]);
}

export function runtime(hearth: Hearth, args: readonly string[]): Launch {
  return { argv: [hearth.runtimePath, ...args], argv0: "hearth-runtime", env: { PATH, ...hearth.env } };
}

export function runcRun(bundle: string): Launch {
  return { argv: ["runc", "run", "--bundle", bundle, `bench-${process.pid}-${++runs}`], env: { PATH } };
}

/** crun reads a state of its own; a container that is not there would be quicker, so one is made up. */
export async function crunState(hearth: Hearth): Promise<number> {
  const root = join(hearth.dir, "crun");
  if (!existsSync(root)) {
    mkdirSync(join(root, "bench"), { recursive: true });
    const status = {
      pid: process.pid,
      "process-start-time": 1,
      "cgroup-path": "",
      scope: null,
      rootfs: "/",
      "systemd-cgroup": false,
    };
    const more = {
      bundle: "/",
      created: "2026-01-01T00:00:00Z",
      owner: "root",
      detached: true,
      external_descriptors: "[]",
    };
    writeFileSync(join(root, "bench/status"), JSON.stringify({ ...status, ...more }));
    writeFileSync(join(root, "bench/config.json"), '{"ociVersion":"1.0.0"}');
  }
  return await wholeProcess({ argv: ["crun", "--root", root, "state", "bench"], env: { PATH } });
}

/** A QEMU that waits to be let go before it starts: a refill that does not compete with what is measured. */
export class HeldQemu implements Disposable {
  readonly #dir = `/tmp/hearth-bench-${process.pid}`;
  readonly program = join(this.#dir, "qemu");
  readonly #flag = join(this.#dir, "hold");

  constructor() {
    mkdirSync(this.#dir, { mode: 0o700 });
    const wait = `[ "$1" = --version ] || while [ -e ${this.#flag} ]; do sleep 0.05; done`;
    writeFileSync(this.program, `#!/bin/sh\n${wait}\nexec ${QEMU} "$@"\n`);
    chmodSync(this.program, 0o755);
  }

  hold(): void {
    writeFileSync(this.#flag, "");
  }

  release(): void {
    rmSync(this.#flag, { force: true });
  }

  [Symbol.dispose](): void {
    rmSync(this.#dir, { recursive: true });
  }
}
