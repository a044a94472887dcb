/**
 * Gives a network namespace on the host the localhost of the VM: who connects to it there, as containerd does for CRI's
 * PortForward, reaches what listens in the guest.
 */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError } from "../errors.ts";
import { AGENT_CALL_TIMEOUT_MS, LOCALHOST_CONNECTIONS_MAX } from "../limits.ts";
import type { Log } from "../log.ts";
import { type ByteStream, chunks } from "../sys/byte-stream.ts";
import { type LocalhostAddress, takeLocalhost } from "../sys/localhost.ts";

const NO_BYTES = new Uint8Array(0);

export class LocalhostRelay implements AsyncDisposable {
  readonly #agent: AgentClient;
  readonly #log: Log;
  readonly #streams = new Set<ByteStream>();
  readonly #relaying = new Set<Promise<void>>();
  readonly #taken: Disposable;

  /** `netns` is a path that is needed now only. Fails with a SystemError where the kernel does not allow it. */
  constructor(agent: AgentClient, netns: string, log: Log) {
    this.#agent = agent;
    this.#log = log;
    this.#taken = takeLocalhost(netns, (stream, address, port) => this.#accept(stream, address, port));
  }

  #accept(stream: ByteStream, address: LocalhostAddress, port: number): void {
    if (this.#streams.size >= LOCALHOST_CONNECTIONS_MAX) {
      this.#log.warn("connection to localhost refused", { port, connections: this.#streams.size });
      stream.close();
      return;
    }
    this.#streams.add(stream);
    const relaying = this.#relay(stream, address, port)
      .catch((thrown: unknown) => {
        this.#log.debug("connection to localhost ended", { address, port, error: describeError(thrown) });
      })
      .finally(() => {
        this.#streams.delete(stream);
        this.#relaying.delete(relaying);
      });
    this.#relaying.add(relaying);
  }

  /** Until both sides have said all, or one of them is gone. */
  async #relay(stream: ByteStream, address: LocalhostAddress, port: number): Promise<void> {
    const { agent } = this.#agent;
    await using _stream = stream;
    const { id } = await agent.connectLocalhost({ ip6: address === "::1", port }, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    const toGuest = async (): Promise<void> => {
      for await (const data of chunks(stream)) await agent.writeLocalhost({ id, data });
      await agent.writeLocalhost({ id, data: NO_BYTES });
    };
    const fromGuest = async (): Promise<void> => {
      for (;;) {
        const { data } = await agent.readLocalhost({ id });
        if (data.length === 0) break;
        await stream.write(data);
      }
      stream.endWrite();
    };
    try {
      await Promise.all([toGuest(), fromGuest()]);
    } finally {
      await agent.closeLocalhost({ id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    }
  }

  /** Its connections end with it; the agent's answers are waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#taken[Symbol.dispose]();
    for (const stream of this.#streams) stream.close();
    await Promise.all(this.#relaying);
  }
}
