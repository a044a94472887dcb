/** What a long-lived child says: kept in a file of bounded size, and its last bytes in memory for error messages. */
import { ftruncateSync, writeSync } from "node:fs";
import { CAPTURED_TAIL_BYTES, RUN_DRAIN_MS } from "../limits.ts";
import { sleep } from "../util/wait.ts";
import { type Fd, O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY, type OwnedFd, openFd, pipe } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";

/**
 * A pipe into a file. The child gets `writeEnd`, which the parent closes after the spawn; the child's writes meet no
 * slow disk and can fill none: a file that has reached `maxBytes` starts again with its newest part.
 */
export class CapturedOutput implements AsyncDisposable {
  /** Resolves when every holder of the write end has closed it, or this was disposed of. */
  readonly ended: Promise<void>;
  readonly #writeEnd: OwnedFd;
  readonly #reader: FdReader;
  readonly #file: OwnedFd;
  readonly #maxBytes: number;
  #fileBytes = 0;
  #tail: Uint8Array[] = [];
  #tailBytes = 0;

  private constructor(writeEnd: OwnedFd, reader: FdReader, file: OwnedFd, maxBytes: number) {
    this.#writeEnd = writeEnd;
    this.#reader = reader;
    this.#file = file;
    this.#maxBytes = maxBytes;
    this.ended = this.#readAll().catch(() => undefined);
  }

  /** Appends to `path`, which is created with mode 0600. `maxBytes` at least CAPTURED_TAIL_BYTES twice over. */
  static open(path: string, maxBytes: number): CapturedOutput {
    const file = openFd(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o600);
    try {
      const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
      return new CapturedOutput(writeEnd, new FdReader(readEnd), file, maxBytes);
    } catch (thrown) {
      file.close();
      throw thrown;
    }
  }

  /** For the child's stdio. */
  get writeEnd(): Fd {
    return this.#writeEnd.fd;
  }

  /** The parent's copy; without this the end is never seen. Idempotent. */
  closeWriteEnd(): void {
    this.#writeEnd.close();
  }

  /** The last `bytes` of the output as text, whole lines where they fit. */
  tail(bytes = CAPTURED_TAIL_BYTES): string {
    const kept = Buffer.concat(this.#tail);
    const text = new TextDecoder().decode(kept.subarray(-bytes));
    const cut = kept.length > bytes ? text.indexOf("\n") + 1 : 0;
    return text.slice(cut).trim();
  }

  /** Waits for what a child that has ended left in the pipe; not longer than RUN_DRAIN_MS, should others hold it open. */
  async drain(): Promise<void> {
    const waiting = new AbortController();
    await Promise.race([this.ended, sleep(RUN_DRAIN_MS, waiting.signal).catch(() => undefined)]);
    waiting.abort();
  }

  /** Idempotent. A child that still writes gets EPIPE. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#writeEnd.close();
    this.#reader.close();
    await this.ended;
    this.#file.close();
  }

  async #readAll(): Promise<void> {
    for (let chunk = await this.#reader.read(); chunk !== null; chunk = await this.#reader.read()) {
      this.#remember(chunk);
      this.#store(chunk);
    }
  }

  #remember(chunk: Uint8Array): void {
    this.#tail.push(chunk);
    this.#tailBytes += chunk.length;
    for (let first = this.#tail[0]; first !== undefined; first = this.#tail[0]) {
      if (this.#tailBytes - first.length < CAPTURED_TAIL_BYTES) return;
      this.#tail.shift();
      this.#tailBytes -= first.length;
    }
  }

  #store(chunk: Uint8Array): void {
    try {
      if (this.#fileBytes + chunk.length > this.#maxBytes) {
        ftruncateSync(this.#file.fd, 0);
        const kept = Buffer.concat(this.#tail).subarray(-CAPTURED_TAIL_BYTES);
        this.#fileBytes = writeSync(this.#file.fd, Buffer.concat([Buffer.from("[older output dropped]\n"), kept]));
        return;
      }
      this.#fileBytes += writeSync(this.#file.fd, chunk);
    } catch {
      // A full disk must not end the reading: the child would block on its pipe.
    }
  }
}
