/** A guest so slow that it answers the greeting only after its host has given up and connected anew. */
import { expect, test } from "bun:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { type AgentClient, connectAgent } from "../../src/agent/client/client.ts";
import { HealthCheckResponse_ServingStatus, HealthCheckResponseSchema } from "../../src/gen/health_pb.ts";
import { ResponseSchema } from "../../src/gen/ttrpc_pb.ts";
import { encodeFrame, FRAME_RESPONSE, FrameDecoder } from "../../src/rpc/ttrpc/frame.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { listenUnix } from "../../src/sys/unix-socket.ts";
import { scratch } from "../harness/scratch.ts";

function answer(streamId: number): Uint8Array {
  const { SERVING: status } = HealthCheckResponse_ServingStatus;
  const payload = toBinary(HealthCheckResponseSchema, create(HealthCheckResponseSchema, { status }));
  return encodeFrame(streamId, FRAME_RESPONSE, 0, toBinary(ResponseSchema, create(ResponseSchema, { payload })));
}

/** The channel is the port's, not the connection's: what was asked over the first is answered over the second. */
async function answerLate(first: ByteStream, second: ByteStream): Promise<void> {
  for (const stream of [first, second]) {
    const decoder = new FrameDecoder();
    for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) {
      for (const { streamId } of decoder.push(chunk)) await second.write(answer(streamId));
    }
  }
}

/** A call that goes with the greeting; that of the attempt which failed is never answered. */
function callAlongside(client: AgentClient): void {
  client.agent.createSandbox({}).catch(() => undefined);
}

test.each([
  ["the greeting's late answer is", undefined],
  ["late answers to the greeting and to a call beside it are", callAlongside],
])("%s not taken for that of the next, and what is asked then is answered", async (_, alongside) => {
  using place = scratch();
  const path = place.path("agent.sock");
  const streams: ByteStream[] = [];
  await using _listener = await listenUnix(path, (stream) => {
    streams.push(stream);
    const [first, second] = streams;
    if (first !== undefined && second !== undefined) void answerLate(first, second);
  });
  await using client = await connectAgent(
    { transport: "virtio-serial", socket: path },
    { timeoutMs: 10_000, ...(alongside === undefined ? {} : { alongside }) },
  );
  for (let call = 0; call < 3; call++) await client.health.check({}, { timeoutMs: 10_000 });
  expect(streams).toHaveLength(2);
});
