/** Two-way streams of bytes with back-pressure both ways. */

/** At most one read() is outstanding; writes are sent whole and in the order of the calls. */
export interface ByteStream extends AsyncDisposable {
  /** The next bytes, at least one, or null at the end of the stream. Rejects when the connection broke or was closed. */
  read(): Promise<Uint8Array | null>;
  /** Resolves when the kernel has taken every byte; until then `data` must not change. Rejects once closed. */
  write(data: Uint8Array): Promise<void>;
  /** Says that nothing more will be written; reading goes on. */
  endWrite(): void;
  /** Idempotent. Pending reads and writes reject. */
  close(): void;
  /** Resolves when the stream is closed, by us or by a broken connection; never rejects. */
  readonly closed: Promise<void>;
}

/** Chunks until the end of the stream. */
export async function* chunks(stream: Pick<ByteStream, "read">): AsyncGenerator<Uint8Array, void, undefined> {
  for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) yield chunk;
}
