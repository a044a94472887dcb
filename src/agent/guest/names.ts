/** Name servers on loopback addresses of the guest, whose queries the host comes for and answers. */
import { describeError, HearthError, toHearthError } from "../../errors.ts";
import { NAME_ANSWER_TIMEOUT_MS, NAME_CONNECTIONS_MAX, NAME_QUERIES_MAX, NAME_SERVERS_MAX } from "../../limits.ts";
import type { Log } from "../../log.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { parseIpv4 } from "../../sys/ipv4.ts";
import { listenTcp } from "../../sys/tcp-socket.ts";
import { framedName, NameMessages } from "../../util/name-messages.ts";
import { sleep, withDeadline } from "../../util/wait.ts";

/** Source: RFC 1035, 4.2. */
const NAME_SERVER_PORT = 53;

export interface NameQuery {
  readonly id: bigint;
  /** Of the name server that was asked. */
  readonly address: string;
  readonly message: Uint8Array;
  /** It came over TCP. */
  readonly tcp: boolean;
}

export class GuestNameServers {
  readonly #log: Log;
  readonly #served = new Set<string>();
  /** How to answer, by the query's id; the oldest are given up when there are too many. */
  readonly #asked = new Map<bigint, (answer: Uint8Array) => void>();
  readonly #waiting: NameQuery[] = [];
  #arrived = Promise.withResolvers<void>();
  #lastId = 0n;
  #connections = 0;

  constructor(log: Log) {
    this.#log = log;
  }

  /** `address` is of 127.0.0.0/8; one that is served already stays. */
  async serve(address: string): Promise<void> {
    if (parseIpv4(address)[0] !== 127) {
      throw new HearthError("invalid-argument", `serve names on ${address}: not a loopback address`);
    }
    if (this.#served.has(address)) return;
    if (this.#served.size >= NAME_SERVERS_MAX) {
      throw new HearthError(
        "resource-exhausted",
        `serve names on ${address}: ${NAME_SERVERS_MAX} addresses are served`,
      );
    }
    try {
      await Bun.udpSocket({
        hostname: address,
        port: NAME_SERVER_PORT,
        socket: {
          data: (socket, message, port, from) => {
            this.#ask({ address, message, tcp: false }, (answer) => void socket.send(answer, port, from));
          },
          error: (_socket, error) => this.#log.warn("name server failed", { address, error: error.message }),
        },
      });
      listenTcp(address, NAME_SERVER_PORT, (stream) => void this.#serveConnection(address, stream));
    } catch (thrown) {
      throw toHearthError(thrown, `serve names on ${address}`);
    }
    this.#served.add(address);
  }

  /** Answers go out as they come; a client that has ended its side has some time to get the last. */
  async #serveConnection(address: string, stream: ByteStream): Promise<void> {
    if (this.#connections >= NAME_CONNECTIONS_MAX) {
      stream.close();
      return;
    }
    this.#connections++;
    let unanswered = 0;
    let ended = false;
    try {
      const messages = new NameMessages(stream);
      for (let message = await messages.next(); message !== null; message = await messages.next()) {
        unanswered++;
        this.#ask({ address, message, tcp: true }, (answer) => {
          unanswered--;
          const written = stream.write(framedName(answer)).catch(() => stream.close());
          if (ended && unanswered === 0) void written.then(() => stream.close());
        });
      }
      ended = true;
      if (unanswered > 0) await Promise.race([stream.closed, sleep(NAME_ANSWER_TIMEOUT_MS)]);
    } catch (thrown) {
      this.#log.debug("name client has gone", { address, error: describeError(thrown) });
    } finally {
      this.#connections--;
      stream.close();
    }
  }

  /** The oldest query that nobody came for yet. */
  async next(signal: AbortSignal): Promise<NameQuery> {
    for (;;) {
      const query = this.#waiting.shift();
      if (query !== undefined) return query;
      this.#arrived = Promise.withResolvers<void>();
      await withDeadline("name query", this.#arrived.promise, { signal });
    }
  }

  answer(id: bigint, message: Uint8Array): void {
    this.#asked.get(id)?.(message);
    this.#asked.delete(id);
  }

  #ask({ address, message, tcp }: Omit<NameQuery, "id">, answer: (message: Uint8Array) => void): void {
    const id = ++this.#lastId;
    this.#asked.set(id, answer);
    // Who asked asks again.
    if (this.#waiting.length >= NAME_QUERIES_MAX) this.#waiting.shift();
    this.#waiting.push({ id, address, message: new Uint8Array(message), tcp });
    const [oldest] = this.#asked.keys();
    if (this.#asked.size > NAME_QUERIES_MAX && oldest !== undefined) this.#asked.delete(oldest);
    this.#arrived.resolve();
  }
}
