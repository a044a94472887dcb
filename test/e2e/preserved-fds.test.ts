/** Descriptors that create, run and exec pass on to processes in real VMs, cold and from the pool. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { dup, type OwnedFd, pipe, socketpair } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { ConsoleListener } from "../../src/sys/scm.ts";
import { SIGTERM } from "../../src/sys/signals.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";
import { PRESERVED_FD_CASES, type PreservingRuntime, readAll, startWithFds } from "../harness/preserved-fds.ts";

const VM_TIMEOUT_MS = 120_000;
/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const ID = `fds-${process.pid}`;
const sh = (script: string): string[] => ["sh", "-c", script];
const text = (bytes: Uint8Array | null): string => Buffer.from(bytes ?? []).toString();
const succeeded = { kind: "exited", code: 0 } as const;

let opened: OpenHearth;
let hearth: Hearth;
let runtime: PreservingRuntime;
beforeAll(() => {
  opened = openHearth({ config: { factory: { vm_cache_number: 1 } } });
  hearth = opened.hearth;
  const { env, dir, runtimePath } = hearth;
  runtime = { container: ID, env, dir, argv: (...args) => [runtimePath, ...args] };
});
afterAll(async () => {
  await opened.close();
}, VM_TIMEOUT_MS);

describe("exec", () => {
  beforeAll(async () => {
    const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
    const outputPath = join(hearth.dir, "output");
    const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, ID], { outputPath });
    if (status !== 0) throw new Error(`${stdout}\n${opened.describe()}`);
  }, VM_TIMEOUT_MS);
  afterAll(async () => {
    await hearth.runtime(["delete", "--force", ID]);
  }, VM_TIMEOUT_MS);

  test.each(PRESERVED_FD_CASES.map((given) => given))(
    "%s",
    async (_name, body) => {
      await body(runtime);
    },
    VM_TIMEOUT_MS,
  );

  test(
    "a signal ends a process that waits with its output locked; one that is left behind goes with the container",
    async () => {
      const [[silent, theirs], [leftSilent, left]] = [socketpair(), socketpair()];
      using _silent = silent;
      using _leftSilent = leftSilent;
      const exec = (script: string, fds: readonly OwnedFd[]) =>
        startWithFds(runtime, ["exec", "--preserve-fds", `${fds.length}`, ID, ...sh(script)], fds);
      const waiting = exec("echo before; exec cat <&3", [theirs]);
      // 40 is sendfile. Source: asm/unistd_64.h.
      const other = exec("until cat /proc/[0-9]*/syscall | grep -q '^40 '; do usleep 100000; done; echo other", []);
      expect([await other.output, await other.child.exited]).toEqual(["other\n", succeeded]);
      waiting.child.kill(SIGTERM);
      expect([await waiting.output, await waiting.child.exited]).toEqual(["before\n", { kind: "exited", code: 143 }]);
      const leaving = exec("cat <&3 & exit 0", [left]);
      expect(await leaving.child.exited).toEqual(succeeded);
    },
    VM_TIMEOUT_MS,
  );

  test(
    "detached and with a terminal: they are beside it",
    async () => {
      using console = ConsoleListener.listen(join(hearth.dir, "console.sock"));
      const received = console.receive({ timeoutMs: 60_000 });
      const [there, back] = [pipe({ nonBlockingWrite: true }), pipe({ nonBlockingRead: true })];
      const flags = ["--tty", "--detach", "--console-socket", console.path, "--preserve-fds", "2"];
      const args = ["exec", ...flags, ID, ...sh("[ -t 1 ] && [ ! -t 3 ] && echo terminal; cat <&3 >&4")];
      const { child, output } = startWithFds(runtime, args, [there.readEnd, back.writeEnd]);
      expect([await child.exited, await output]).toEqual([succeeded, ""]);
      const writer = new FdWriter(there.writeEnd);
      await writer.write(new TextEncoder().encode("beside\n"));
      writer.close();
      expect(text(await readAll(new FdReader(back.readEnd)))).toBe("beside\n");
      expect(text(await readAll(new FdReader(await received)))).toBe("terminal\r\n");
    },
    VM_TIMEOUT_MS,
  );
});

/** A container that gets a socket and a pipe at its creation, and is started later. */
async function createAndStart(id: string, config: Record<string, unknown> = {}): Promise<void> {
  const bundle = await hearth.bundle({
    args: sh("read word <&3; echo $word >&3; cat <&4 >&3; exec 3>&-; sleep 1000"),
    config,
  });
  const [ours, theirs] = socketpair();
  const { readEnd, writeEnd } = pipe({ nonBlockingWrite: true });
  const args = ["create", "--preserve-fds", "2", "--bundle", bundle, id];
  const create = startWithFds({ ...runtime, argv: toFile(join(hearth.dir, `${id}.output`)) }, args, [theirs, readEnd]);
  expect([await create.output, await create.child.exited]).toEqual(["", succeeded]);
  const reader = new FdReader(ours);
  using toSocket = new FdWriter(dup(ours.fd));
  const writer = new FdWriter(writeEnd);
  await toSocket.write(new TextEncoder().encode("word\n"));
  expect((await hearth.runtime(["start", id])).status).toBe(0);
  await writer.write(new TextEncoder().encode("piped\n"));
  writer.close();
  expect(text(await readAll(reader))).toBe("word\npiped\n");
  expect((await hearth.runtime(["delete", "--force", id])).status).toBe(0);
}

/** What create and run are given stays with the container. */
const toFile =
  (path: string) =>
  (...args: string[]): string[] => ["sh", "-c", `exec "$@" >${path} 2>&1`, "sh", hearth.runtimePath, ...args];

test(
  "create and start, in a time namespace too",
  async () => {
    const namespaces = ["pid", "network", "ipc", "uts", "mount", "time"].map((type) => ({ type }));
    await createAndStart(`${ID}-time`, { linux: { namespaces, timeOffsets: { monotonic: { secs: 1000 } } } });
  },
  VM_TIMEOUT_MS,
);

test(
  "create and start in a VM of the pool",
  async () => {
    await using pool = startPool(hearth, 1);
    await pool.idle(1);
    await createAndStart(`${ID}-pooled`);
    expect((await pool.status()).hits).toBe(1);
  },
  VM_TIMEOUT_MS,
);

test.each(["move-to-cgroup", "create-container"])(
  "a create that fails at %s closes them, and nothing is left",
  async (step) => {
    const bundle = await hearth.bundle({ args: ["true"] });
    const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
    const failing = { ...runtime, env: { ...runtime.env, HEARTH_FAIL_AT: step } };
    const { child, output } = startWithFds(
      failing,
      ["create", "--preserve-fds", "1", "--bundle", bundle, `${ID}-fault`],
      [writeEnd],
    );
    expect(text(await readAll(new FdReader(readEnd)))).toBe("");
    expect([await output, await child.exited]).toEqual([
      expect.stringContaining(`${step}: fault injected`),
      { kind: "exited", code: 1 },
    ]);
    for (const kind of ["vm", "containers"]) {
      const dir = join(hearth.runDir, kind);
      expect(existsSync(dir) ? readdirSync(dir) : []).toEqual([]);
    }
  },
  VM_TIMEOUT_MS,
);
