/** Asking the kernel about its network, and telling it to change it: one request after the other over one socket. */
import { HearthError } from "../../../errors.ts";
import { NETLINK_DUMP_ATTEMPTS_MAX } from "../../../limits.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../../../sys/datagram-socket.ts";
import {
  decodeMessages,
  encodeMessage,
  errorOf,
  isInterrupted,
  type NetlinkMessage,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
} from "../../../sys/netlink-message.ts";
import {
  decodeAddress,
  decodeLink,
  decodeRoute,
  dumpRequest,
  type Link,
  type LinkAddress,
  type LinkRoute,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWROUTE,
} from "./rtnetlink.ts";

/** Not for use by two callers at once. */
export class RouteChannel implements Disposable {
  readonly #socket = new NetlinkSocket(NETLINK_ROUTE);
  #sequence = 0;

  async links(): Promise<Link[]> {
    return (await this.#dump(RTM_GETLINK, RTM_NEWLINK, "list links")).map(decodeLink);
  }

  async addresses(): Promise<LinkAddress[]> {
    const payloads = await this.#dump(RTM_GETADDR, RTM_NEWADDR, "list addresses");
    return payloads.flatMap((payload) => decodeAddress(payload) ?? []);
  }

  /** Of all tables. */
  async routes(): Promise<LinkRoute[]> {
    const payloads = await this.#dump(RTM_GETROUTE, RTM_NEWROUTE, "list routes");
    return payloads.flatMap((payload) => decodeRoute(payload) ?? []);
  }

  /** A change; `what` names it in the SystemError that says why it failed. */
  async change(type: number, flags: number, payload: Uint8Array, what: string): Promise<void> {
    const sequence = ++this.#sequence;
    this.#socket.send(encodeMessage({ type, flags: NLM_F_REQUEST | NLM_F_ACK | flags, sequence, payload }));
    for (;;) {
      for (const message of decodeMessages(await this.#socket.receive())) {
        if (message.sequence !== sequence || message.type !== NLMSG_ERROR) continue;
        const error = errorOf(message, what);
        if (error !== undefined) throw error;
        return;
      }
    }
  }

  async #dump(type: number, answerType: number, what: string): Promise<Uint8Array[]> {
    for (let attempt = 1; attempt <= NETLINK_DUMP_ATTEMPTS_MAX; attempt++) {
      const found = await this.#dumpOnce(type, answerType, what);
      if (found !== undefined) return found;
    }
    throw new HearthError("unavailable", `${what}: they keep changing`);
  }

  /** Undefined when the dump was interrupted by a change. */
  async #dumpOnce(type: number, answerType: number, what: string): Promise<Uint8Array[] | undefined> {
    const sequence = ++this.#sequence;
    this.#socket.send(encodeMessage({ type, flags: NLM_F_REQUEST | NLM_F_DUMP, sequence, payload: dumpRequest(type) }));
    const payloads: Uint8Array[] = [];
    let interrupted = false;
    for (;;) {
      for (const message of decodeMessages(await this.#socket.receive())) {
        if (message.sequence !== sequence) continue;
        interrupted ||= isInterrupted(message);
        if (message.type === answerType) payloads.push(message.payload);
        else if (isEnd(message, what)) return interrupted ? undefined : payloads;
      }
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

function isEnd(message: NetlinkMessage, what: string): boolean {
  if (message.type !== NLMSG_DONE && message.type !== NLMSG_ERROR) return false;
  const error = errorOf(message, what);
  if (error !== undefined) throw error;
  return true;
}
