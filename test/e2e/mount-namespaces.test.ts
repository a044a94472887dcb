/**
 * The pool server and the runtime in mount namespaces of their own, as systemd services and podman are, with a run directory
 * below mounts that share nothing and below such that share: the guest gets what the runtime sees.
 */
import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bindMount, makePrivate, makeShared, unmountTree } from "../../src/sys/mount.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";
import { runProgram } from "../harness/program.ts";

const VM_TIMEOUT_MS = 120_000;

/** Where something is started: beside the test, or in a copy of its mounts of that propagation. */
type Place = "beside" | "private" | "slave" | "shared";

interface Case {
  readonly runDir: "private" | "shared";
  readonly pool: Place | "none";
  readonly runtime: Place;
}

const CASES: readonly Case[] = [
  { runDir: "private", pool: "none", runtime: "private" },
  { runDir: "shared", pool: "none", runtime: "slave" },
  { runDir: "private", pool: "beside", runtime: "private" },
  { runDir: "shared", pool: "beside", runtime: "slave" },
  { runDir: "private", pool: "private", runtime: "beside" },
  { runDir: "shared", pool: "slave", runtime: "shared" },
  { runDir: "shared", pool: "private", runtime: "private" },
];

function enter(place: Place): string[] {
  return place === "beside" ? [] : ["unshare", "--mount", "--propagation", place];
}

/** The executable as it is started there. */
function startedIn(hearth: Hearth, place: Place): string {
  const path = join(hearth.dir, "hearth");
  writeFileSync(path, `#!/bin/sh\nexec ${[...enter(place), hearth.executable].join(" ")} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** Its root is mounted where only the runtime sees it, when that has a mount namespace of its own. */
async function runContainer(hearth: Hearth, place: Place, id: string): Promise<string> {
  const bundle = await hearth.bundle({ args: ["sh", "-c", "cat /marker && mkdir /new && echo written"] });
  const rootfs = join(bundle, "rootfs");
  const staged = `${rootfs}-staged`;
  mkdirSync(staged);
  const hide = `mount -t tmpfs root ${staged}; cp -a ${rootfs}/. ${staged}; mount --bind ${staged} ${rootfs}`;
  const script = `set -e; ${place === "beside" ? ":" : hide}
    echo ${id} >${rootfs}/marker; exec ${hearth.runtimePath} run --bundle ${bundle} ${id}`;
  const result = await runProgram([...enter(place), "sh", "-c", script], { env: hearth.env });
  return `${result.status} ${result.stdout}${result.stderr}`;
}

test.each(CASES)(
  "run directory on a $runDir mount, pool $pool, runtime $runtime",
  async ({ runDir, pool: poolPlace, runtime }) => {
    const config = { factory: { vm_cache_number: poolPlace === "none" ? 0 : 2, vm_cache_timeout_ms: 60_000 } };
    await withHearth({ config }, async (hearth) => {
      bindMount(hearth.dir, hearth.dir);
      try {
        makePrivate(hearth.dir);
        if (runDir === "shared") makeShared(hearth.dir);
        await using pool =
          poolPlace === "none"
            ? undefined
            : startPool({ ...hearth, executable: startedIn(hearth, poolPlace) }, undefined);
        await pool?.idle(2);
        const ids = ["first", "second"];
        const outputs = await Promise.all(ids.map((id) => runContainer(hearth, runtime, `${id}-${process.pid}`)));
        expect(outputs).toEqual(ids.map((id) => `0 ${id}-${process.pid}\nwritten\n`));
        if (pool !== undefined) expect(await pool.status()).toMatchObject({ hits: 2 });
      } finally {
        unmountTree(hearth.dir, { detach: true });
      }
    });
  },
  VM_TIMEOUT_MS,
);
