/** Moves bytes between a process in the guest and descriptors on the host, each stream on its own, with back-pressure. */
import { HearthError, SystemError } from "../errors.ts";
import type { SandboxService } from "../gen/sandbox_pb.ts";
import { OutputStream } from "../gen/sandbox_table.ts";
import { FD_READ_BYTES_DEFAULT, STREAM_CALLS_AT_ONCE, STREAM_CHUNK_BYTES_MAX } from "../limits.ts";
import type { ClientOf } from "../rpc/ttrpc/client.ts";
import type { FdReader } from "../sys/fd-reader.ts";
import type { FdWriter } from "../sys/fd-writer.ts";
import type { PlainNewlines } from "./plain-newlines.ts";

/** A process in a VM. */
export interface ProcessTarget {
  readonly sandbox: ClientOf<typeof SandboxService>;
  readonly containerId: string;
  /** The container's id for its init process. */
  readonly execId: string;
  /** One of the process's further descriptors, 3 and up, instead of a standard stream. */
  readonly descriptor?: number;
}

/** Numbers that the streams have in the process. */
const DESCRIPTORS = { [OutputStream.STDOUT]: 1, [OutputStream.STDERR]: 2 } as const;

/**
 * Host to guest until the end of `reader`, which is then told to the process, or until the process takes no more. Then
 * the reader is closed, so that whoever writes to us learns it as from a process that closed its standard input.
 * The next bytes are read and sent while the last ones are on their way; the agent keeps their order.
 * `stop` ends it without telling the process.
 */
export async function pumpInput(target: ProcessTarget, reader: FdReader, stop: AbortSignal): Promise<void> {
  const { sandbox, ...process } = target;
  const broken = new AbortController();
  const either = AbortSignal.any([stop, broken.signal]);
  const send = async (data: Uint8Array): Promise<void> => {
    const { written } = await sandbox.writeStdin({ ...process, data });
    if (written < data.length) throw new HearthError("failed-precondition", "the process has closed its input");
  };
  const sending: Promise<void>[] = [];
  try {
    for (;;) {
      const data = await reader.read(STREAM_CHUNK_BYTES_MAX, either);
      if (data === null) break;
      const sent = send(data);
      sent.catch((thrown: unknown) => broken.abort(thrown));
      sending.push(sent);
      if (sending.length === STREAM_CALLS_AT_ONCE) await sending.shift();
    }
    await Promise.all(sending);
    await sandbox.closeStdin(process);
  } catch (thrown) {
    if (!stop.aborted && !isProcessGone(thrown)) throw thrown;
  } finally {
    reader.close();
  }
}

/**
 * Guest to host until the end of the stream. The next bytes are asked for before the last ones are written, and those
 * after them too where much comes, so that neither side waits while the other works; the agent serves the calls in turn.
 * When nobody reads on the host any more, nobody does in the guest: the process gets EPIPE, or SIGPIPE, at its next write. What cannot be
 * delivered for another reason, as on a full disk, is read and dropped: the process must not hang.
 */
export async function pumpOutput(
  target: ProcessTarget,
  stream: keyof typeof DESCRIPTORS,
  writer: FdWriter | undefined,
  filter?: PlainNewlines,
): Promise<void> {
  const { sandbox, containerId, execId } = target;
  const ask = () => {
    const answer = sandbox.readOutput({ containerId, execId, stream, lengthMax: STREAM_CHUNK_BYTES_MAX });
    // It may fail while an earlier one is waited for, whose failure is the one to tell of then.
    answer.catch(() => undefined);
    return answer;
  };
  const asked = [ask()];
  let open = writer;
  try {
    for (;;) {
      const { data, eof } = await (asked.shift() ?? ask());
      // Who writes little at a time would have to pay for a call more at its end.
      const wanted = eof ? 0 : data.length < FD_READ_BYTES_DEFAULT ? 1 : STREAM_CALLS_AT_ONCE;
      while (asked.length < wanted) asked.push(ask());
      const bytes = filter === undefined ? data : eof ? filter.end() : filter.push(data);
      const delivery = open === undefined ? "lost" : await deliver(open, bytes);
      if (eof) return;
      if (delivery === "taken") continue;
      if (delivery === "reader gone") await closeOutput(target, DESCRIPTORS[stream]);
      open = undefined;
    }
  } finally {
    writer?.close();
  }
}

async function closeOutput({ sandbox, containerId, execId }: ProcessTarget, descriptor: 1 | 2): Promise<void> {
  try {
    await sandbox.closeOutput({ containerId, execId, descriptor });
  } catch (thrown) {
    if (!isProcessGone(thrown)) throw thrown;
  }
}

/** What became of bytes: "lost" when they cannot be delivered for another reason than that nobody reads, such as that the disk is full. */
export type Delivery = "taken" | "reader gone" | "lost";

/** When it cannot be delivered the writer is closed. */
export async function deliver(writer: FdWriter, data: Uint8Array): Promise<Delivery> {
  try {
    await writer.write(data);
    return "taken";
  } catch (thrown) {
    const closedMeanwhile = thrown instanceof HearthError && thrown.code === "cancelled";
    if (!(thrown instanceof SystemError) && !closedMeanwhile) throw thrown;
    writer.close();
    return thrown instanceof SystemError && thrown.errno === "EPIPE" ? "reader gone" : "lost";
  }
}

/** The process has closed its input or has ended; its container too, perhaps. */
export function isProcessGone(thrown: unknown): boolean {
  return thrown instanceof HearthError && ["failed-precondition", "not-found"].includes(thrown.code);
}
