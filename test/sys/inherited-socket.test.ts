import { expect, test } from "bun:test";
import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { pipe } from "../../src/sys/fd.ts";
import { inheritedCount } from "../../src/sys/inherited-socket.ts";
import { connectSocket, listenSocket } from "../../src/sys/scm.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { PATH } from "../harness/program.ts";
import { scratch } from "../harness/scratch.ts";

const SERVER = join(import.meta.dir, "fixtures/inherited-server.ts");

/** Starts the server as systemd does: descriptors from 3 upwards, and variables that name its own pid. */
function startServer(fds: readonly number[], variables = `LISTEN_FDS=${fds.length} LISTEN_PID=$$`) {
  return Bun.spawn(["sh", "-c", `${variables} exec "$@"`, "sh", process.execPath, SERVER], {
    env: { PATH },
    stdio: ["ignore", "pipe", "inherit", ...fds],
  });
}

test("a connection made before the server starts is served; the file stays with whoever bound it", async () => {
  using dir = scratch();
  const path = dir.path("s");
  using listening = listenSocket(path, 4);
  await using client = await connectUnix(path);
  await client.write(new TextEncoder().encode("early"));
  const server = startServer([listening.fd]);
  expect(new TextDecoder().decode((await client.read()) ?? undefined)).toBe("early");
  expect(await new Response(server.stdout).text()).toBe(`serves ${path}\n`);
  expect(await server.exited).toBe(0);
  expect(existsSync(path)).toBe(true);
});

test("what is not one private listening unix socket is refused", async () => {
  using dir = scratch();
  const path = dir.path("s");
  using listening = listenSocket(path, 4);
  using connected = await connectSocket(path);
  using readEnd = pipe().readEnd;
  const answer = (fds: readonly number[], variables?: string): Promise<string> =>
    new Response(startServer(fds, variables).stdout).text();
  expect(await answer([listening.fd, listening.fd])).toBe(
    "invalid-argument: take inherited socket: 2 were passed, one is wanted\n",
  );
  expect(await answer([connected.fd])).toContain("it is not a listening unix socket with a path");
  expect(await answer([readEnd.fd])).toContain("descriptor 3 is none");
  expect(await answer([], "LISTEN_FDS=1 LISTEN_PID=$$")).toContain("descriptor 3 is none");
  expect(await answer([listening.fd], "LISTEN_FDS=1 LISTEN_PID=1")).toBe("nothing inherited\n");
  chmodSync(path, 0o660);
  expect(await answer([listening.fd])).toBe(`permission-denied: take inherited socket ${path}: its mode is 0660\n`);
});

test.each([
  [{}, 0],
  [{ LISTEN_FDS: "1" }, 0],
  [{ LISTEN_FDS: "1", LISTEN_PID: "8" }, 0],
  [{ LISTEN_FDS: "1", LISTEN_PID: "7" }, 1],
  [{ LISTEN_FDS: "0", LISTEN_PID: "7" }, 0],
])("descriptors for process 7 in the environment %j: %i", (environment, count) => {
  expect(inheritedCount(environment, 7)).toBe(count);
});

test("a count that is none", () => {
  for (const text of ["", "-1", "one", "99999"]) {
    expect(() => inheritedCount({ LISTEN_FDS: text, LISTEN_PID: "7" }, 7)).toThrow("LISTEN_FDS");
  }
});
