/** What descriptors that are passed on to a process must do, for any runtime: with processes of this host, and in a VM. */
import { expect } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  dup,
  O_APPEND,
  O_CREAT,
  O_DIRECTORY,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  OwnedFd,
  openFd,
  type Pipe,
  pipe,
  shutdownSocket,
  socketpair,
} from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { createEpoll } from "../../src/sys/poll-thread.ts";
import { type ChildProcess, spawnProcess } from "../../src/sys/process.ts";
import { openPty } from "../../src/sys/pty.ts";
import { listenSocket } from "../../src/sys/scm.ts";
import { PATH } from "./program.ts";

/** A running container that has a busybox or the like, and the runtime that it is of. */
export interface PreservingRuntime {
  readonly container: string;
  /** For files of the host. */
  readonly dir: string;
  readonly env: Readonly<Record<string, string>>;
  argv(...args: string[]): string[];
}

const MIB = 1024 * 1024;
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A command of the runtime that is given the descriptors, which are then its alone. */
export function startWithFds(
  runtime: PreservingRuntime,
  args: readonly string[],
  fds: readonly (OwnedFd | "ignore")[],
): { readonly child: ChildProcess; readonly output: Promise<string> } {
  const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
  const child = spawnProcess({
    argv: ["/usr/bin/env", ...runtime.argv(...args)],
    env: { PATH, ...runtime.env },
    stdio: ["ignore", writeEnd.fd, writeEnd.fd, ...fds.map((fd) => (fd === "ignore" ? fd : fd.fd))],
  });
  for (const fd of [writeEnd, ...fds]) if (fd !== "ignore") fd.close();
  return { child, output: readAll(new FdReader(readEnd)).then((bytes) => Buffer.from(bytes).toString()) };
}

const execScript = (runtime: PreservingRuntime, script: string, fds: readonly OwnedFd[]) =>
  startWithFds(runtime, ["exec", "--preserve-fds", String(fds.length), runtime.container, "sh", "-c", script], fds);

export async function readAll(reader: FdReader): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) chunks.push(chunk);
  reader.close();
  return Buffer.concat(chunks);
}

async function write(fd: OwnedFd, data: Uint8Array): Promise<void> {
  using writer = new FdWriter(fd);
  await writer.write(data);
}

const succeeded = { kind: "exited", code: 0 } as const;

export const PRESERVED_FD_CASES: readonly (readonly [string, (runtime: PreservingRuntime) => Promise<void>])[] = [
  [
    "10 MiB through a pipe each way, at once, are the same bytes",
    async (runtime) => {
      const data = randomBytes(10 * MIB);
      const [there, back] = [pipe({ nonBlockingWrite: true }), pipe({ nonBlockingRead: true })];
      const { child, output } = execScript(runtime, "cat <&3 >&4; exit 7", [there.readEnd, back.writeEnd]);
      const [, received] = await Promise.all([write(there.writeEnd, data), readAll(new FdReader(back.readEnd))]);
      expect([received.length, sha256(received)]).toEqual([data.length, sha256(data)]);
      expect([await child.exited, await output]).toEqual([{ kind: "exited", code: 7 }, ""]);
    },
  ],
  [
    "10 MiB through a socket pair there and back, half closed from either side",
    async (runtime) => {
      const data = randomBytes(10 * MIB);
      const [ours, theirs] = socketpair();
      const { child, output } = execScript(runtime, "cat <&3 >&3; echo ended", [theirs]);
      const reader = new FdReader(ours);
      const send = async (): Promise<void> => {
        using writer = new FdWriter(dup(reader.fd));
        await writer.write(data);
        shutdownSocket(writer.fd, "write");
      };
      const [received] = await Promise.all([readAll(reader), send()]);
      expect(sha256(received)).toBe(sha256(data));
      expect([await output, await child.exited]).toEqual(["ended\n", succeeded]);
    },
  ],
  [
    "each descriptor has its number, and the process no other",
    async (runtime) => {
      const pipes = [pipe(), pipe(), pipe()];
      const script = 'for fd in 3 4 5; do echo "$fd" >&"$fd"; done; ls /proc/self/fd | tr "\\n" " "';
      const { child, output } = execScript(
        runtime,
        script,
        pipes.map(({ writeEnd }) => writeEnd),
      );
      const texts = await Promise.all(pipes.map(({ readEnd }) => readAll(new FdReader(readEnd))));
      expect(texts.map((text) => Buffer.from(text).toString())).toEqual(["3\n", "4\n", "5\n"]);
      // The sixth is the directory that ls reads.
      expect([await output, await child.exited]).toEqual(["0 1 2 3 4 5 6 ", succeeded]);
    },
  ],
  [
    "a process that closes what it reads closes the writer's pipe, as it does by ending",
    async (runtime) => {
      const { readEnd, writeEnd } = pipe({ nonBlockingWrite: true });
      const { child } = execScript(runtime, "exec 3<&-; exec sleep 1000", [readEnd]);
      using writer = new FdWriter(writeEnd);
      await writer.readerGone();
      await expect(writer.write(bytesOf("x"))).rejects.toThrow("EPIPE");
      expect(child.status).toBeUndefined();
      child.kill(15);
      await child.exited;
    },
  ],
  [
    "a process whose reader on the host has gone cannot write any more",
    async (runtime) => {
      const { readEnd, writeEnd } = pipe();
      const script = "trap '' PIPE; echo ready; while echo x >&3; do sleep 0.01; done 2>/dev/null; echo refused";
      const { child, output } = execScript(runtime, script, [writeEnd]);
      readEnd.close();
      expect([await output, await child.exited]).toEqual(["ready\nrefused\n", succeeded]);
    },
  ],
  [
    "a peer that closes its socket is the end of reading, and of writing",
    async (runtime) => {
      const [ours, theirs] = socketpair();
      const script = "trap '' PIPE; cat <&3; echo end; while echo x >&3; do sleep 0.01; done 2>/dev/null; echo refused";
      const { child, output } = execScript(runtime, script, [theirs]);
      await write(ours, bytesOf("last\n"));
      expect([await output, await child.exited]).toEqual(["last\nend\nrefused\n", succeeded]);
    },
  ],
  [
    "a socket that its owner keeps serves one process after another",
    async (runtime) => {
      const [ours, theirs] = socketpair();
      using reader = new FdReader(ours);
      for (const word of ["one", "two"]) {
        const { child } = execScript(runtime, `echo ${word} >&3`, [dup(theirs.fd)]);
        expect(await child.exited).toEqual(succeeded);
        expect(Buffer.from((await reader.read()) ?? []).toString()).toBe(`${word}\n`);
      }
      theirs.close();
      expect(await reader.read()).toBeNull();
    },
  ],
  [
    "a reader that stops holds up its own stream only",
    async (runtime) => {
      const [stopped, other] = [pipe({ nonBlockingRead: true }), pipe({ nonBlockingRead: true })];
      const script = "head -c 4000000 /dev/zero >&3 & exec 3>&-; echo other >&4; exec 4>&-; wait";
      const { child } = execScript(runtime, script, [stopped.writeEnd, other.writeEnd]);
      using reader = new FdReader(other.readEnd);
      expect(Buffer.from((await reader.read()) ?? []).toString()).toBe("other\n");
      expect(child.status).toBeUndefined();
      expect((await readAll(new FdReader(stopped.readEnd))).length).toBe(4_000_000);
      expect(await child.exited).toEqual(succeeded);
    },
  ],
  [
    "a process that waits for one descriptor with another one's pipe locked keeps no other process waiting",
    async (runtime) => {
      const [silent, theirs] = socketpair();
      const back = pipe({ nonBlockingRead: true });
      // What it says first is read before it locks the pipe: who reads from a locked one waits too.
      const script = "echo before >&4; read -r line <&3; cat <&3 >&4";
      const waiting = execScript(runtime, script, [theirs, back.writeEnd]);
      const reader = new FdReader(back.readEnd);
      expect(Buffer.from((await reader.read()) ?? []).toString()).toBe("before\n");
      await write(dup(silent.fd), bytesOf("go on\n"));
      const other = execScript(runtime, "echo other; exit 7", []);
      expect([await other.output, await other.child.exited]).toEqual(["other\n", { kind: "exited", code: 7 }]);
      await write(silent, bytesOf("after\n"));
      expect(Buffer.from(await readAll(reader)).toString()).toBe("after\n");
      expect([await waiting.output, await waiting.child.exited]).toEqual(["", succeeded]);
    },
  ],
  [
    "files are read from where they stand, written and appended to",
    async (runtime) => {
      const [input, output, log] = ["in", "out", "log"].map((name) => join(runtime.dir, `preserved-${name}`));
      if (input === undefined || output === undefined || log === undefined) throw new Error("no paths");
      writeFileSync(input, "from the host\n");
      writeFileSync(log, "before\n");
      const fds = [openFd(input, O_RDONLY), openFd(output, O_WRONLY | O_CREAT), openFd(log, O_WRONLY | O_APPEND)];
      const { child } = execScript(runtime, "cat <&3 >&4; echo after >&5", fds);
      expect(await child.exited).toEqual(succeeded);
      expect([readFileSync(output, "utf8"), readFileSync(log, "utf8")]).toEqual(["from the host\n", "before\nafter\n"]);
    },
  ],
  [
    "a terminal and /dev/null are carried as bytes",
    async (runtime) => {
      const pty = openPty();
      const fds = [pty.terminal, openFd("/dev/null", O_RDWR)];
      const { child, output } = execScript(
        runtime,
        "read line <&3; echo got $line >&3; cat <&4; echo x >&4; echo done",
        fds,
      );
      await write(dup(pty.master.fd), bytesOf("typed\n"));
      expect([await output, await child.exited]).toEqual(["done\n", succeeded]);
      expect(Buffer.from(await readAll(new FdReader(pty.master))).toString()).toContain("got typed\r\n");
    },
  ],
  [
    "what cannot be carried is refused by its number and kind",
    async (runtime) => {
      const args = ["exec", "--preserve-fds", "2", runtime.container, "true"];
      const file = join(runtime.dir, "preserved-both");
      const refused: [string, OwnedFd | "ignore"][] = [
        ["not open", "ignore"],
        ["a listening socket", listenSocket(join(runtime.dir, "preserved.sock"), 1)],
        [`the directory ${runtime.dir}`, openFd(runtime.dir, O_RDONLY | O_DIRECTORY)],
        ["a file open for reading and writing at once", openFd(file, O_RDWR | O_CREAT)],
        ["a pipe open for reading and writing at once", bothEnds(pipe())],
        ["the device /dev/net/tun", openFd("/dev/net/tun", O_RDWR)],
        ["a path (O_PATH)", openFd(runtime.dir, O_PATH)],
        ["not open, or no stream (anon_inode:[eventpoll])", new OwnedFd(createEpoll())],
      ];
      for (const [what, fd] of refused) {
        const { child, output } = startWithFds(runtime, args, [openFd("/dev/null", O_RDONLY), fd]);
        const said = expect.stringContaining(`preserve file descriptor 4: it is ${what}`);
        expect([await output, await child.exited]).toEqual([said, { kind: "exited", code: 255 }]);
      }
      const datagrams = {
        ...runtime,
        argv: (...all: string[]) => [
          "bash",
          "-c",
          'exec "$@" 4<>/dev/udp/127.0.0.1/9',
          "bash",
          ...runtime.argv(...all),
        ],
      };
      const { output } = startWithFds(datagrams, args, [openFd("/dev/null", O_RDONLY)]);
      expect(await output).toContain("preserve file descriptor 4: it is a datagram socket");
      const many = startWithFds(runtime, ["exec", "--preserve-fds", "65", runtime.container, "true"], []);
      expect(await many.output).toContain("preserve 65 file descriptors: at most 64");
    },
  ],
];

/** A pipe's one end as Linux lets it be opened too. */
function bothEnds({ readEnd, writeEnd }: Pipe): OwnedFd {
  const both = openFd(`/proc/self/fd/${readEnd.fd}`, O_RDWR);
  readEnd.close();
  writeEnd.close();
  return both;
}
