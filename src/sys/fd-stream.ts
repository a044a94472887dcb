/** A two-way device, such as a virtio-serial port, as a byte stream. */
import type { ByteStream } from "./byte-stream.ts";
import { dup, O_NOCTTY, O_NONBLOCK, O_RDWR, type OwnedFd, openFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { FdWriter } from "./fd-writer.ts";

/** A stream over one descriptor that is open for reading and writing (device, pty master, socket); it owns it. */
export class FdStream implements ByteStream {
  readonly closed: Promise<void>;
  readonly #reader: FdReader;
  readonly #writer: FdWriter;
  readonly #markClosed: () => void;

  constructor(fd: OwnedFd) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#markClosed = resolve;
    this.#reader = new FdReader(fd);
    try {
      this.#writer = new FdWriter(dup(fd.fd));
    } catch (thrown) {
      this.#reader.close();
      throw thrown;
    }
  }

  async read(): Promise<Uint8Array | null> {
    try {
      return await this.#reader.read();
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  async write(data: Uint8Array): Promise<void> {
    try {
      await this.#writer.write(data);
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  /** A device has no half-close. */
  endWrite(): void {}

  close(): void {
    this.#reader.close();
    this.#writer.close();
    this.#markClosed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** Opens a character device, /dev/vport0p1 say, as a stream. Some open once only: a second open is EBUSY. */
export function openDevice(path: string): ByteStream {
  return new FdStream(openFd(path, O_RDWR | O_NONBLOCK | O_NOCTTY));
}
