/** What test and test host say to each other over a virtio-serial port: one JSON object a line. */
import type { ByteStream } from "../../../src/sys/byte-stream.ts";

export const TEST_HOST_PORT = "org.hearth.test-host.0";

export interface CommandRequest {
  readonly id: number;
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Base64; empty: no standard input. */
  readonly stdin: string;
  /** Milliseconds until it and what it started is killed. */
  readonly timeoutMs: number;
}

export type CommandAnswer =
  | { readonly id: 0; readonly kind: "ready" }
  | {
      readonly id: number;
      readonly kind: "ended";
      /** The exit status, or 128 plus the signal. */
      readonly status: number;
      readonly timedOut: boolean;
      /** Base64. */
      readonly stdout: string;
      readonly stderr: string;
    }
  | { readonly id: number; readonly kind: "failed"; readonly message: string };

export async function sendLine(stream: ByteStream, message: CommandRequest | CommandAnswer): Promise<void> {
  await stream.write(new TextEncoder().encode(`${JSON.stringify(message)}\n`));
}

/** Both ends are the test's own: what comes is what the other sent. Ends with the stream. */
export async function* receiveLines<T extends CommandRequest | CommandAnswer>(stream: ByteStream): AsyncGenerator<T> {
  const decoder = new TextDecoder();
  // Pieces of an unfinished line: an answer of some MiB comes in hundreds.
  let pieces: string[] = [];
  for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) {
    const [first = "", ...others] = decoder.decode(chunk, { stream: true }).split("\n");
    pieces.push(first);
    for (const next of others) {
      const line = pieces.join("");
      pieces = [next];
      if (line !== "") yield JSON.parse(line);
    }
  }
}
