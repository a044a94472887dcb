import { expect, test } from "bun:test";
import type { SandboxService } from "../gen/sandbox_pb.ts";
import { OutputStream } from "../gen/sandbox_pb.ts";
import { silentLog } from "../log.ts";
import type { ClientOf } from "../rpc/ttrpc/client.ts";
import { pipe } from "../sys/fd.ts";
import { FdReader } from "../sys/fd-reader.ts";
import { sleep } from "../util/wait.ts";
import { startShim } from "./shim.ts";

/** Long enough for any idle timer that somebody may think of: an emulated guest under load is silent for a second. */
const SILENCE_MS = 1_200;

test("output that comes long after an exec process has ended is delivered", async () => {
  const late = Promise.withResolvers<Uint8Array>();
  let sent = false;
  const sandbox = {
    info: async () => ({}),
    waitProcess: async () => ({ exitStatus: 7 }),
    closeStdin: async () => ({}),
    readOutput: async ({ stream }: { stream?: OutputStream }) => {
      if (stream !== OutputStream.STDERR || sent) return { data: new Uint8Array(), eof: true };
      sent = true;
      return { data: await late.promise, eof: false };
    },
  } as unknown as ClientOf<typeof SandboxService>;
  const stderr = pipe({ nonBlockingRead: true });
  using reader = new FdReader(stderr.readEnd);
  const shim = startShim({
    target: { sandbox, containerId: "c1", execId: "e1" },
    stdio: { stdin: undefined, stdout: undefined, stderr: stderr.writeEnd },
    terminal: undefined,
    log: silentLog,
  });
  const first = await Promise.race([shim.exited, sleep(SILENCE_MS).then(() => "still there")]);
  expect(first).toBe("still there");
  late.resolve(new TextEncoder().encode("err\n"));
  expect(await shim.exited).toBe(7);
  expect(new TextDecoder().decode((await reader.read(16)) ?? undefined)).toBe("err\n");
});
