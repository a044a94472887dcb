/** The event loop's end of a socket on whose other end native threads write records, all of one size. */
import type { Socket } from "bun";
import { type Fd, type OwnedFd, setNonBlocking } from "./fd.ts";

export class RecordSocket {
  /** For writing to the threads, never blocking. */
  readonly fd: Fd;
  readonly #recordBytes: number;
  readonly #received: (view: DataView, at: number) => void;
  #socket: Socket<undefined> | undefined;
  #rest: Uint8Array = new Uint8Array(0);
  #waits = 0;

  /** Owns `socket` for the rest of the process. `received` gets each record, by where it begins; `lost` is called when the threads' end is gone. */
  constructor(socket: OwnedFd, recordBytes: number, received: (view: DataView, at: number) => void, lost: () => void) {
    this.#recordBytes = recordBytes;
    this.#received = received;
    setNonBlocking(socket.fd, true);
    this.fd = socket.release();
    const connecting = Bun.connect({
      fd: this.fd,
      socket: {
        binaryType: "uint8array",
        open: (opened) => this.#opened(opened),
        data: (_socket, chunk: Uint8Array) => this.#split(chunk),
        close: lost,
        error: lost,
      },
    });
    connecting.catch(lost);
  }

  /** The event loop stays alive exactly while somebody waits for a record. */
  countWaits(change: number): void {
    const before = this.#waits;
    this.#waits += change;
    if (before === 0 && this.#waits > 0) this.#socket?.ref();
    if (before > 0 && this.#waits === 0) this.#socket?.unref();
  }

  #opened(socket: Socket<undefined>): void {
    this.#socket = socket;
    if (this.#waits === 0) socket.unref();
  }

  #split(chunk: Uint8Array): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    for (; at + this.#recordBytes <= bytes.length; at += this.#recordBytes) this.#received(view, at);
    this.#rest = bytes.slice(at);
  }
}
