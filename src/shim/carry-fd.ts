/** Carries one of a process's descriptors beside its standard streams: as pipes and sockets are, as far as a VM allows. */
import { STREAM_CHUNK_BYTES_MAX } from "../limits.ts";
import { type CarriedFd, READS, WRITES } from "../sys/carried-fd.ts";
import { dup } from "../sys/fd.ts";
import { FdReader } from "../sys/fd-reader.ts";
import { FdWriter } from "../sys/fd-writer.ts";
import { deliver, type ProcessTarget, pumpInput } from "./pump.ts";

/**
 * Until the process has said all that it will say to it, which is at its end at the latest: then what is left is delivered and
 * the descriptor closed. `stop` ends it at once. Rejects when the sandbox process is lost.
 */
export async function carryFd(
  process: ProcessTarget,
  descriptor: number,
  { fd, use }: CarriedFd,
  stop: AbortSignal,
): Promise<void> {
  const target = { ...process, descriptor };
  const unread = new AbortController();
  const stopped = AbortSignal.any([stop, unread.signal]);
  // The reader may put another description under the number: the writer's is a copy of that.
  const reader = (use & READS) === 0 ? undefined : new FdReader(fd);
  const writer = (use & WRITES) === 0 ? undefined : new FdWriter(reader === undefined ? fd : dup(fd.fd));
  const input = reader === undefined ? undefined : pumpInput(target, reader, stopped);
  // It goes on after the output's end, and what it fails with, that fails with too.
  input?.catch(() => undefined);
  try {
    const { closed } = await pumpDescriptor(target, writer, stopped);
    // Whoever writes for a process that no longer reads is to see it, as of a pipe.
    if (closed) unread.abort();
  } finally {
    writer?.close();
  }
}

/** What the process writes, and its end; `closed` when it will not read either. */
async function pumpDescriptor(
  { sandbox, ...process }: ProcessTarget,
  writer: FdWriter | undefined,
  stop: AbortSignal,
): Promise<{ readonly closed: boolean }> {
  const refuse = async (): Promise<void> => {
    writer?.close();
    await sandbox.closeOutput(process);
  };
  const watching = writer?.readerGone(stop).then(refuse, () => undefined);
  watching?.catch(() => undefined);
  for (;;) {
    const { data, eof, closed } = await sandbox.readOutput({ ...process, lengthMax: STREAM_CHUNK_BYTES_MAX });
    if (eof) {
      // Whoever shares a socket may go on with it: only a process that ended its half of it ends the other's.
      if (!closed) await writer?.end();
      return { closed };
    }
    if (writer !== undefined && (await deliver(writer, data)) !== "taken") await refuse();
  }
}
