/** Moves bytes between a process in the guest and descriptors on the host, each stream on its own, with back-pressure. */
import { HearthError, SystemError } from "../errors.ts";
import type { OutputStream, SandboxService } from "../gen/sandbox_pb.ts";
import { STREAM_CHUNK_BYTES_MAX } from "../limits.ts";
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

/**
 * Host to guest until the end of `reader`, which is then told to the process, or until the process takes no more. Then
 * the reader is closed, so that whoever writes to us learns it as from a process that closed its standard input.
 * `stop` ends it without telling the process.
 */
export async function pumpInput(target: ProcessTarget, reader: FdReader, stop: AbortSignal): Promise<void> {
  const { sandbox, ...process } = target;
  try {
    for (;;) {
      const data = await reader.read(undefined, stop);
      if (data === null) {
        await sandbox.closeStdin(process);
        return;
      }
      if (!(await writeAll(target, data))) return;
    }
  } catch (thrown) {
    if (!stop.aborted && !isProcessGone(thrown)) throw thrown;
  } finally {
    reader.close();
  }
}

/** False when the process has closed its end. */
async function writeAll({ sandbox, ...process }: ProcessTarget, data: Uint8Array): Promise<boolean> {
  for (let at = 0; at < data.length; ) {
    const { written } = await sandbox.writeStdin({ ...process, data: data.subarray(at) });
    if (written === 0) return false;
    at += written;
  }
  return true;
}

/**
 * Guest to host until the end of the stream. What cannot be delivered any more is read and dropped: the process must not hang
 * on a reader that has gone, or on a full disk.
 */
export async function pumpOutput(
  target: ProcessTarget,
  stream: OutputStream.STDOUT | OutputStream.STDERR,
  writer: FdWriter | undefined,
  filter?: PlainNewlines,
): Promise<void> {
  const { sandbox, containerId, execId } = target;
  let open = writer;
  try {
    for (;;) {
      const { data, eof } = await sandbox.readOutput({
        containerId,
        execId,
        stream,
        lengthMax: STREAM_CHUNK_BYTES_MAX,
      });
      const bytes = filter === undefined ? data : eof ? filter.end() : filter.push(data);
      if (open !== undefined && !(await deliver(open, bytes))) open = undefined;
      if (eof) return;
    }
  } finally {
    writer?.close();
  }
}

/** False when it cannot be delivered any more: nobody reads, the disk is full. */
export async function deliver(writer: FdWriter, data: Uint8Array): Promise<boolean> {
  try {
    await writer.write(data);
    return true;
  } catch (thrown) {
    const closedMeanwhile = thrown instanceof HearthError && thrown.code === "cancelled";
    if (!(thrown instanceof SystemError) && !closedMeanwhile) throw thrown;
    writer.close();
    return false;
  }
}

/** The process has closed its input or has ended; its container too, perhaps. */
export function isProcessGone(thrown: unknown): boolean {
  return thrown instanceof HearthError && ["failed-precondition", "not-found"].includes(thrown.code);
}
