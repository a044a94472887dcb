/** The test's end of a test host's port: commands in flight, each answered when it has ended. */
import type { ByteStream } from "../../../src/sys/byte-stream.ts";
import { type CommandAnswer, type CommandRequest, receiveLines, sendLine } from "./protocol.ts";

const GONE = "the test host has gone";

type Ended = Extract<CommandAnswer, { kind: "ended" }>;

export class CommandChannel {
  /** Resolves when the other end runs commands. */
  readonly ready: Promise<void>;
  readonly #stream: ByteStream;
  readonly #pending = new Map<number, PromiseWithResolvers<Ended>>();
  readonly #ready = Promise.withResolvers<void>();
  #lastId = 0;
  #closed = false;

  constructor(stream: ByteStream) {
    this.#stream = stream;
    this.ready = this.#ready.promise;
    this.ready.catch(() => undefined);
    void this.#follow().then(
      () => this.#fail(undefined),
      (thrown: unknown) => this.#fail(thrown),
    );
  }

  async run(command: Omit<CommandRequest, "id">): Promise<Ended> {
    if (this.#closed) throw new Error(GONE);
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<Ended>();
    this.#pending.set(id, answer);
    // When the line cannot be sent, the stream has ended for its reader too, who says so.
    sendLine(this.#stream, { ...command, id }).catch(() => undefined);
    return await answer.promise;
  }

  close(): void {
    this.#stream.close();
  }

  async #follow(): Promise<void> {
    for await (const answer of receiveLines<CommandAnswer>(this.#stream)) {
      const pending = this.#pending.get(answer.id);
      this.#pending.delete(answer.id);
      if (answer.kind === "ready") this.#ready.resolve();
      else if (answer.kind === "ended") pending?.resolve(answer);
      else pending?.reject(new Error(`in the test host: ${answer.message}`));
    }
  }

  #fail(cause: unknown): void {
    this.#closed = true;
    const error = new Error(GONE, { cause });
    this.#ready.reject(error);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}
