/** Descriptors that create, run and exec pass on, with processes of this host in place of a VM's. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { dup, O_RDONLY, openFd, pipe, socketpair } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { listenSocket } from "../../src/sys/scm.ts";
import { PRESERVED_FD_CASES, type PreservingRuntime, readAll, startWithFds } from "../harness/preserved-fds.ts";
import { type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

let fixture: RuntimeFixture;
let runtime: PreservingRuntime;
beforeEach(() => {
  fixture = runtimeFixture();
  const { env, dir, bundle } = fixture;
  runtime = { container: "c1", env, dir, argv: (...args) => ["env", "-C", bundle, ...fixture.argv(...args)] };
});
afterEach(() => {
  using done = fixture;
  expect(done.leftovers()).toEqual([]);
});

const sh = (script: string): string[] => ["sh", "-c", script];
const text = (bytes: Uint8Array | null): string => Buffer.from(bytes ?? []).toString();
const succeeded = { kind: "exited", code: 0 } as const;

describe("exec", () => {
  beforeEach(async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "--detach", "c1"]);
  });
  afterEach(async () => {
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test.each(PRESERVED_FD_CASES.map((given) => given))("%s", async (_name, body) => {
    await body(runtime);
  });

  test("detached: the shim carries them", async () => {
    const [there, back] = [pipe(), pipe({ nonBlockingRead: true })];
    const args = ["exec", "--detach", "--preserve-fds=2", "c1", ...sh("cat <&3 >&4")];
    const { child } = startWithFds(runtime, args, [there.readEnd, back.writeEnd]);
    expect(await child.exited).toEqual(succeeded);
    const writer = new FdWriter(there.writeEnd);
    await writer.write(new TextEncoder().encode("carried\n"));
    writer.close();
    expect(text(await readAll(new FdReader(back.readEnd)))).toBe("carried\n");
  });
});

test("a disk that is full does not hang the process", async () => {
  fixture.writeBundle(sh("head -c 1000000 /dev/zero; exit 5"));
  const child = Bun.spawn(["sh", "-c", 'exec "$@" >/dev/full', "sh", ...fixture.argv("run", "c1")], {
    env: fixture.env,
    cwd: fixture.bundle,
    stdio: ["ignore", "ignore", "inherit"],
  });
  expect(await child.exited).toBe(5);
});

describe("create and run", () => {
  test("run in the foreground: the end of the container is the end of what it writes", async () => {
    fixture.writeBundle(sh("read line <&3; echo $line $LISTEN_FDS >&3"));
    const [ours, theirs] = socketpair();
    const { child, output } = startWithFds(runtime, ["run", "--preserve-fds", "1", "c1"], [theirs]);
    const reader = new FdReader(ours);
    await new FdWriter(dup(ours.fd)).write(new TextEncoder().encode("word\n"));
    expect(text(await readAll(reader))).toBe("word\n");
    expect([await output, await child.exited]).toEqual(["", succeeded]);
  });

  test("create and start: nobody but the container's shim has them", async () => {
    fixture.writeBundle(sh("cat <&3 >&4; exec 4>&-; sleep 1000"));
    const [there, back] = [pipe(), pipe({ nonBlockingRead: true })];
    const create = startWithFds(runtime, ["create", "--preserve-fds", "2", "c1"], [there.readEnd, back.writeEnd]);
    expect(await create.child.exited).toEqual(succeeded);
    await fixture.ok(["start", "c1"]);
    const writer = new FdWriter(there.writeEnd);
    await writer.write(new TextEncoder().encode("through\n"));
    writer.close();
    expect(text(await readAll(new FdReader(back.readEnd)))).toBe("through\n");
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test("a create that fails holds none of them", async () => {
    fixture.writeBundle(["true"]);
    fixture.script({ fail: { createContainer: { code: "internal", message: "no" } } });
    const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
    const { child } = startWithFds(runtime, ["create", "--preserve-fds", "1", "c1"], [writeEnd]);
    expect(text(await readAll(new FdReader(readEnd)))).toBe("");
    expect(await child.exited).toEqual({ kind: "exited", code: 1 });
  });

  /** The command, with what systemd sets for a service that it activates; `pid` for which process. */
  const activated = (pid: string): PreservingRuntime => ({
    ...runtime,
    argv: (...args) => ["sh", "-c", `export LISTEN_FDS=1 LISTEN_PID=${pid}; exec "$@"`, "sh", ...runtime.argv(...args)],
  });

  test("systemd's protocol: a connection comes first and is told of, as by runc", async () => {
    fixture.writeBundle(sh('echo "$LISTEN_FDS $LISTEN_PID" >&3; cat <&4 >&3'));
    const [ours, theirs] = socketpair();
    const file = openFd("/proc/sys/kernel/ostype", O_RDONLY);
    const { output } = startWithFds(activated("$$"), ["run", "--preserve-fds", "1", "c1"], [theirs, file]);
    expect(text(await readAll(new FdReader(ours)))).toBe("1 1\nLinux\n");
    expect(await output).toBe("");
  });

  test("systemd's protocol: a listening socket is refused, and those of another process are not the runtime's", async () => {
    fixture.writeBundle(sh("echo $LISTEN_FDS"));
    const listening = listenSocket(fixture.path("activated.sock"), 1);
    const refused = startWithFds(activated("$$"), ["run", "c1"], [dup(listening.fd)]);
    expect(await refused.output).toContain("preserve file descriptor 3: it is a listening socket");
    expect(await startWithFds(activated("1"), ["run", "c1"], [listening]).output).toBe("\n");
  });
});
