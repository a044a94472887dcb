import { expect, test } from "bun:test";
import type { SandboxService } from "../gen/sandbox_pb.ts";
import { OutputStream } from "../gen/sandbox_pb.ts";
import { FD_READ_BYTES_DEFAULT } from "../limits.ts";
import type { ClientOf } from "../rpc/ttrpc/client.ts";
import { pipe } from "../sys/fd.ts";
import { FdReader } from "../sys/fd-reader.ts";
import { FdWriter } from "../sys/fd-writer.ts";
import { pumpInput, pumpOutput } from "./pump.ts";

const target = (calls: object) => ({
  sandbox: calls as unknown as ClientOf<typeof SandboxService>,
  containerId: "c1",
  execId: "c1",
});
const never = new AbortController().signal;

async function readAll(reader: FdReader): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test.each([
  ["little", 100, 1],
  ["much", FD_READ_BYTES_DEFAULT, 2],
])("where %s comes at a time (%i bytes), %i calls for output are in flight", async (_, size, expected) => {
  const chunks = [1, 2, 3, 4].map((byte) => new Uint8Array(size).fill(byte));
  let inFlight = 0;
  let most = 0;
  let asked = 0;
  const readOutput = async () => {
    const data = chunks[asked++];
    most = Math.max(most, ++inFlight);
    await Promise.resolve();
    inFlight--;
    return { data: data ?? new Uint8Array(), eof: data === undefined };
  };
  const { readEnd, writeEnd } = pipe({ nonBlockingRead: true, nonBlockingWrite: true });
  using reader = new FdReader(readEnd);
  const [received] = await Promise.all([
    readAll(reader),
    pumpOutput(target({ readOutput }), OutputStream.STDOUT, new FdWriter(writeEnd)),
  ]);
  expect(received.equals(Buffer.concat(chunks))).toBe(true);
  expect(most).toBe(expected);
});

test("input is sent in its order, the next while the last is on its way, and its end after all of it", async () => {
  const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
  const events: string[] = [];
  const answers: (() => void)[] = [];
  const sends = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
  const calls = {
    writeStdin: async ({ data }: { data: Uint8Array }) => {
      events.push(`sent ${Buffer.from(data)}`);
      const answered = new Promise<void>((resolve) => answers.push(resolve));
      sends[answers.length - 1]?.resolve();
      await answered;
      events.push(`answered ${Buffer.from(data)}`);
      return { written: data.length };
    },
    closeStdin: async () => {
      events.push("end");
      return {};
    },
  };
  const pumping = pumpInput(target(calls), new FdReader(readEnd), never);
  const writer = new FdWriter(writeEnd);
  await writer.write(Buffer.from("one"));
  await sends[0].promise;
  await writer.write(Buffer.from("two"));
  await sends[1].promise;
  writer.close();
  for (const answer of answers) answer();
  await pumping;
  expect(events).toEqual(["sent one", "sent two", "answered one", "answered two", "end"]);
});

test("a process that takes no more ends the pump, although nothing more comes for it", async () => {
  const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
  using writer = new FdWriter(writeEnd);
  const calls = {
    writeStdin: async () => ({ written: 0 }),
    closeStdin: () => Promise.reject(new Error("closed twice")),
  };
  const pumping = pumpInput(target(calls), new FdReader(readEnd), never);
  await writer.write(Buffer.from("nobody wants this"));
  await pumping;
  await expect(writer.write(Buffer.from("nor this"))).rejects.toThrow("EPIPE");
});
