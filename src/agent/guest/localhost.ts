/** TCP connections to localhost of the guest that the host asked for, by number. */
import { HearthError, SystemError } from "../../errors.ts";
import { LOCALHOST_CONNECTIONS_MAX } from "../../limits.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { connectLocalhost } from "../../sys/localhost.ts";

const PORT_MAX = 65_535;
const NO_BYTES = new Uint8Array(0);

export class LocalhostConnections {
  readonly #streams = new Map<bigint, ByteStream>();
  #connecting = 0;
  #lastId = 0n;

  /** Returns the connection's number. Without `ip6`, ::1 is tried where nobody listens on 127.0.0.1. */
  async connect(ip6: boolean, port: number): Promise<bigint> {
    if (port < 1 || port > PORT_MAX) throw new HearthError("invalid-argument", `connect localhost port ${port}`);
    if (this.#streams.size + this.#connecting >= LOCALHOST_CONNECTIONS_MAX) {
      throw new HearthError(
        "resource-exhausted",
        `connect localhost port ${port}: there are ${LOCALHOST_CONNECTIONS_MAX} connections`,
      );
    }
    this.#connecting++;
    try {
      const stream = await (ip6 ? connectLocalhost("::1", port) : connectEither(port));
      const id = ++this.#lastId;
      this.#streams.set(id, stream);
      return id;
    } finally {
      this.#connecting--;
    }
  }

  /** No bytes at the end. Rejects when the connection broke or is closed meanwhile. */
  async read(id: bigint): Promise<Uint8Array> {
    return (await this.#stream(id).read()) ?? NO_BYTES;
  }

  /** No bytes: the end. */
  async write(id: bigint, data: Uint8Array): Promise<void> {
    if (data.length === 0) this.#stream(id).endWrite();
    else await this.#stream(id).write(data);
  }

  close(id: bigint): void {
    this.#streams.get(id)?.close();
    this.#streams.delete(id);
  }

  #stream(id: bigint): ByteStream {
    const stream = this.#streams.get(id);
    if (stream !== undefined) return stream;
    throw new HearthError("not-found", `use connection ${id} to localhost: it is closed`);
  }
}

/** As who connects to the name "localhost" would: on the host a connection never is refused, so it cannot choose there. */
async function connectEither(port: number): Promise<ByteStream> {
  try {
    return await connectLocalhost("127.0.0.1", port);
  } catch (thrown) {
    if (!(thrown instanceof SystemError) || thrown.errno !== "ECONNREFUSED") throw thrown;
    return await connectLocalhost("::1", port).catch(() => Promise.reject(thrown));
  }
}
