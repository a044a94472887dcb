import { expect, test } from "bun:test";
import { SandboxService } from "../../src/gen/sandbox_pb.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient, registerService } from "../../src/rpc/ttrpc/descriptors.ts";
import { serveTtrpc } from "../../src/rpc/ttrpc/server.ts";
import type { TtrpcConnection } from "../../src/rpc/ttrpc/service.ts";
import { connectUnix, listenUnix } from "../../src/sys/unix-socket.ts";
import { rejection } from "../harness/rejection.ts";
import { scratch } from "../harness/scratch.ts";

test("ttrpc over a unix socket: large messages both ways, concurrency, the end of the client", async () => {
  using dir = scratch();
  const connections: TtrpcConnection[] = [];
  const service = registerService(SandboxService, {
    writeStdin: (request) => ({ written: request.data.length }),
    listProcesses: () => ({ processList: new Uint8Array(3 * 1024 * 1024).fill(1) }),
    waitProcess: () => new Promise(() => {}),
  });
  await using listener = await listenUnix(dir.path("sandbox.sock"), (stream) => {
    connections.push(serveTtrpc(stream, [service]));
  });
  const client = new TtrpcClient(await connectUnix(listener.path));
  const sandbox = createTtrpcClient(SandboxService, client);
  const waiting = rejection(sandbox.waitProcess({}));
  const data = new Uint8Array(256 * 1024);
  const writes = Array.from({ length: 40 }, () => sandbox.writeStdin({ data }));
  const lists = Array.from({ length: 4 }, () => sandbox.listProcesses({}));
  for (const answer of await Promise.all(writes)) expect(answer.written).toBe(data.length);
  for (const answer of await Promise.all(lists)) expect(answer.processList.length).toBe(3 * 1024 * 1024);
  client.close();
  await connections[0]?.closed;
  expect(await waiting).toMatchObject({ code: "cancelled" });
  expect(connections.length).toBe(1);
});

test("random bytes on the socket harm nobody else", async () => {
  using dir = scratch();
  const service = registerService(SandboxService, { info: () => ({ vmId: "v" }) });
  await using listener = await listenUnix(dir.path("sandbox.sock"), (stream) => serveTtrpc(stream, [service]));
  for (let round = 0; round < 50; round++) {
    await using stream = await connectUnix(listener.path);
    await stream.write(crypto.getRandomValues(new Uint8Array(1 + round * 37))).catch(() => {});
  }
  await using client = new TtrpcClient(await connectUnix(listener.path));
  expect((await createTtrpcClient(SandboxService, client).info({})).vmId).toBe("v");
});
