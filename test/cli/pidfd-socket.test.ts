import { afterEach, beforeEach, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { ConsoleListener } from "../../src/sys/scm.ts";
import { type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

let fixture: RuntimeFixture;
beforeEach(() => {
  fixture = runtimeFixture();
  fixture.writeBundle(["sleep", "1000"]);
});
afterEach(() => {
  fixture[Symbol.dispose]();
});

/** Runs a command with `--pidfd-socket`; `sent` is the pid of what it sends there. Source: proc(5), fdinfo. */
function sending(...[command = "", ...args]: string[]) {
  const listener = ConsoleListener.listen(fixture.path(`${crypto.randomUUID().slice(0, 8)}.sock`));
  const receive = async (): Promise<number> => {
    using _listener = listener;
    using pidfd = await listener.receive();
    return Number(/^Pid:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, "utf8"))?.[1]);
  };
  return { sent: receive(), result: fixture.run([command, "--pidfd-socket", listener.path, ...args]) };
}

async function pidSentBy(...args: string[]): Promise<number> {
  const { sent, result } = sending(...args);
  expect(await result).toMatchObject({ exitCode: 0, stderr: "" });
  return await sent;
}

test("gets a pidfd of the process that stands for the container's, or for one of exec", async () => {
  const created = await pidSentBy("create", "c1");
  expect(created).toBe((await fixture.state("c1")).pid);
  await fixture.ok(["delete", "c1"]);
  const running = await pidSentBy("run", "--detach", "c1");
  expect(running).toBe((await fixture.state("c1")).pid);
  const pidFile = fixture.path("pid");
  const detached = await pidSentBy("exec", "--detach", "--pid-file", pidFile, "c1", "sleep", "1000");
  expect(String(detached)).toBe(readFileSync(pidFile, "utf8"));
  const foreground = sending("exec", "c1", "sleep", "1000");
  process.kill(await foreground.sent, "SIGTERM");
  expect(await foreground.result).toMatchObject({ exitCode: 143 });
  await fixture.ok(["delete", "--force", "c1"]);
  expect(fixture.leftovers()).toEqual([]);
});

test("where nobody listens is an error, and nothing is made", async () => {
  const nowhere = ["--pidfd-socket", fixture.path("nobody.sock")];
  expect(await fixture.run(["create", ...nowhere, "c1"])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("nobody.sock"),
  });
  expect(fixture.leftovers()).toEqual([]);
  await fixture.ok(["run", "--detach", "c1"]);
  expect(await fixture.run(["exec", ...nowhere, "c1", "true"])).toMatchObject({ exitCode: 255 });
  expect(await fixture.run(["exec", "--detach", ...nowhere, "c1", "true"])).toMatchObject({ exitCode: 255 });
  await fixture.ok(["delete", "--force", "c1"]);
  expect(fixture.leftovers()).toEqual([]);
});
