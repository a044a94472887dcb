/**
 * The output of processes that end at once, by whole commands as engines give them: at terminals whose master goes to a
 * console socket, where whoever has it reads until it hangs up, at the caller's own terminal, and through pipes.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { dup, pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { openPty } from "../../src/sys/pty.ts";
import { ConsoleListener } from "../../src/sys/scm.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { readAll } from "../harness/preserved-fds.ts";

const VM_TIMEOUT_MS = 120_000;
/** Of each kind; more of them, and on a machine that does other things too, is a test of its own. */
const RUNS = Number(process.env["HEARTH_TEST_QUICK_RUNS"] ?? 24);
const AT_ONCE = 8;
const TEST_TIMEOUT_MS = VM_TIMEOUT_MS + RUNS * 5_000;
/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const POD = `quick-${process.pid}`;
const podAnnotations = (type: string): Record<string, string> => ({
  "io.kubernetes.cri.container-type": type,
  "io.kubernetes.cri.sandbox-id": POD,
});
const sh = (script: string): string[] => ["/bin/sh", "-c", script];

let opened: OpenHearth;
let hearth: Hearth;
beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  const bundle = await hearth.bundle({ args: ["sleep", "100000"], config: { annotations: podAnnotations("sandbox") } });
  const outputPath = join(hearth.dir, "output");
  const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, POD], { outputPath });
  if (status !== 0) throw new Error(`${stdout}\n${opened.describe()}`);
}, VM_TIMEOUT_MS);
afterAll(async () => {
  await hearth.runtime(["delete", "--force", POD]);
  await opened.close();
}, VM_TIMEOUT_MS);

/** All of `RUNS`, so many at once; returns what was not as expected. */
async function inBursts(
  run: (index: number) => Promise<string>,
  expected: (index: number) => string,
): Promise<string[]> {
  const wrong: string[] = [];
  const worker = async (first: number): Promise<void> => {
    for (let index = first; index < RUNS; index += AT_ONCE) {
      const found = await run(index);
      if (found !== expected(index)) wrong.push(`${index}: ${JSON.stringify(found)}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, (_, first) => worker(first)));
  return wrong;
}

/** Runs the commands that make a process with its terminal at a console socket; all that it showed until the hang-up. */
async function shownAtConsole(name: string, make: (consoleSocket: string) => Promise<void>): Promise<string> {
  using console = ConsoleListener.listen(join(hearth.dir, `${name}.sock`));
  const received = console.receive({ timeoutMs: VM_TIMEOUT_MS });
  const [master] = await Promise.all([received, make(console.path)]);
  return Buffer.from(await readAll(new FdReader(master))).toString();
}

async function must(args: readonly string[], outputPath?: string): Promise<void> {
  const { status, stderr } = await hearth.runtime(args, {
    timeoutMs: VM_TIMEOUT_MS,
    ...(outputPath === undefined ? {} : { outputPath }),
  });
  if (status !== 0) throw new Error(`${args.join(" ")}: status ${status}: ${stderr}`);
}

test(
  `of ${RUNS} exec processes with a console socket no output is lost`,
  async () => {
    const run = (index: number): Promise<string> =>
      shownAtConsole(`exec-${index}`, (socket) =>
        must(["exec", "--tty", "--detach", "--console-socket", socket, POD, ...sh(`echo marker ${index}`)]),
      );
    expect(await inBursts(run, (index) => `marker ${index}\r\n`)).toEqual([]);
  },
  TEST_TIMEOUT_MS,
);

test(
  `of ${RUNS} containers with a console socket no output is lost`,
  async () => {
    const run = async (index: number): Promise<string> => {
      const id = `${POD}-${index}`;
      const args = sh(`echo marker ${index}`);
      const config = { annotations: podAnnotations("container") };
      const bundle = await hearth.bundle({ args, terminal: true, config });
      const shown = await shownAtConsole(id, async (socket) => {
        await must(["create", "--bundle", bundle, "--console-socket", socket, id], join(hearth.dir, `${id}.output`));
        await must(["start", id]);
      });
      await must(["delete", "--force", id]);
      return shown;
    };
    expect(await inBursts(run, (index) => `marker ${index}\r\n`)).toEqual([]);
  },
  TEST_TIMEOUT_MS,
);

test(
  `of ${RUNS} exec processes at the terminal of who calls no output is lost`,
  async () => {
    const run = async (index: number): Promise<string> => {
      const pty = openPty();
      const child = Bun.spawn(
        ["setsid", "-cw", hearth.runtimePath, "exec", "--tty", POD, ...sh(`echo marker ${index}`)],
        {
          env: { ...hearth.env },
          stdio: [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
        },
      );
      const shown = readAll(new FdReader(dup(pty.master.fd)));
      pty.terminal.close();
      const text = `${await child.exited} ${Buffer.from(await shown).toString()}`;
      pty.master.close();
      return text;
    };
    expect(await inBursts(run, (index) => `0 marker ${index}\r\n`)).toEqual([]);
  },
  TEST_TIMEOUT_MS,
);

test.each([
  ["in the foreground", []],
  ["detached", ["--detach"]],
] as const)(
  `of ${RUNS} exec processes with pipes, %s, no output is lost`,
  async (_name, flags) => {
    const run = async (index: number): Promise<string> => {
      const [out, err] = [pipe({ nonBlockingRead: true }), pipe({ nonBlockingRead: true })];
      const texts = [out, err].map(({ readEnd }) => readAll(new FdReader(readEnd)));
      const script = `echo out ${index}; echo err ${index} >&2; exit ${index % 200}`;
      const child = Bun.spawn([hearth.runtimePath, "exec", ...flags, POD, ...sh(script)], {
        env: { ...hearth.env },
        stdio: ["ignore", out.writeEnd.fd, err.writeEnd.fd],
      });
      for (const { writeEnd } of [out, err]) writeEnd.close();
      return `${await child.exited} ${Buffer.concat(await Promise.all(texts)).toString()}`;
    };
    const status = (index: number): number => (flags.length === 0 ? index % 200 : 0);
    const expected = (index: number): string => `${status(index)} out ${index}\nerr ${index}\n`;
    expect(await inBursts(run, expected)).toEqual([]);
  },
  TEST_TIMEOUT_MS,
);
