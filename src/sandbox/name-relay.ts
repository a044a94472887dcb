/**
 * Answers what processes in the guest ask of name servers on loopback addresses, such as docker's own one: in the
 * network namespace on the host, where those listen.
 */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError } from "../errors.ts";
import { NAME_ANSWER_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { UdpSocket } from "../sys/datagram-socket.ts";
import { inNetns } from "../sys/namespace.ts";

/** Source: RFC 1035, 4.2. */
const NAME_SERVER_PORT = 53;

/** Relays until `signal` aborts or the agent has gone; never rejects. `netns` has to stay valid as long. */
export async function relayNames(agent: AgentClient, netns: string, log: Log, signal: AbortSignal): Promise<void> {
  try {
    for (;;) {
      const { id, address, message } = await agent.agent.nextNameQuery({}, { signal });
      void answerQuery(netns, address, message, signal)
        .then((answer) => agent.agent.answerNameQuery({ id, address, message: answer }, { signal }))
        // Who asked asks again, or gives up.
        .catch((thrown: unknown) => log.debug("name query not answered", { address, error: describeError(thrown) }));
    }
  } catch (thrown) {
    if (!signal.aborted) log.warn("names are no longer relayed", { error: describeError(thrown) });
  }
}

async function answerQuery(
  netns: string,
  address: string,
  message: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  using socket = inNetns(netns, () => new UdpSocket(address, NAME_SERVER_PORT));
  socket.send(message);
  return await socket.receive(AbortSignal.any([signal, AbortSignal.timeout(NAME_ANSWER_TIMEOUT_MS)]));
}
