/**
 * Answers what processes in the guest ask of name servers on loopback addresses, such as docker's own one: in the
 * network namespace on the host, where those listen.
 */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError, HearthError } from "../errors.ts";
import { NAME_ANSWER_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { UdpSocket } from "../sys/datagram-socket.ts";
import { inNetns } from "../sys/namespace.ts";
import { connectTcp } from "../sys/tcp-socket.ts";
import { framedName, NameMessages } from "../util/name-messages.ts";

/** Source: RFC 1035, 4.2. */
const NAME_SERVER_PORT = 53;

/** Relays until `signal` aborts or the agent has gone; never rejects. `netns` has to stay valid as long. */
export async function relayNames(agent: AgentClient, netns: string, log: Log, signal: AbortSignal): Promise<void> {
  try {
    for (;;) {
      const { id, address, message, tcp } = await agent.agent.nextNameQuery({}, { signal });
      const ask = tcp ? askOverTcp : askOverUdp;
      void ask(netns, address, message, AbortSignal.any([signal, AbortSignal.timeout(NAME_ANSWER_TIMEOUT_MS)]))
        .then((answer) => agent.agent.answerNameQuery({ id, address, message: answer, tcp }, { signal }))
        // Who asked asks again, or gives up.
        .catch((thrown: unknown) => log.debug("name query not answered", { address, error: describeError(thrown) }));
    }
  } catch (thrown) {
    if (!signal.aborted) log.warn("names are no longer relayed", { error: describeError(thrown) });
  }
}

async function askOverUdp(
  netns: string,
  address: string,
  message: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  using socket = inNetns(netns, () => new UdpSocket(address, NAME_SERVER_PORT));
  socket.send(message);
  return await socket.receive(signal);
}

async function askOverTcp(
  netns: string,
  address: string,
  message: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  await using stream = await inNetns(netns, () => connectTcp(address, NAME_SERVER_PORT, { signal }));
  const giveUp = (): void => stream.close();
  signal.addEventListener("abort", giveUp, { once: true });
  try {
    await stream.write(framedName(message));
    const answer = await new NameMessages(stream).next();
    if (answer === null) throw new HearthError("unavailable", `ask name server ${address}: it closed the connection`);
    return answer;
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}
