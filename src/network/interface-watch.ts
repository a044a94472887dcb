/** Tells of changes to what a network namespace gives its VM: interfaces, their addresses, routes, permanent neighbours. */
import { SystemError } from "../errors.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../sys/datagram-socket.ts";
import { O_RDONLY, type OwnedFd, openFd } from "../sys/fd.ts";
import { fromCString } from "../sys/libc.ts";
import { inNetns } from "../sys/namespace.ts";
import { decodeAttributes, decodeMessages, type NetlinkMessage, readU32 } from "../sys/netlink-message.ts";
import { isTapName } from "./endpoint.ts";

/** Links and neighbours; addresses, routes and rules of both families. Source: linux/rtnetlink.h, RTNLGRP_*. */
const GROUPS = [1, 3, 5, 7, 8, 9, 11, 19].reduce((mask, group) => mask | (1 << (group - 1)), 0);
/** Source: linux/rtnetlink.h; the one that tells of an end is the next number. */
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_NEWROUTE = 24;
const RTM_NEWNEIGH = 28;
const RTM_NEWRULE = 32;
/** Sizes of struct ifinfomsg and rtmsg, which attributes follow. */
const LINK_BYTES = 16;
const ROUTE_BYTES = 12;
const IFLA_IFNAME = 3;
const RTA_OIF = 4;
/** Offset of ndm_state in struct ndmsg. */
const NEIGHBOUR_STATE = 8;
const NUD_PERMANENT = 0x80;

export class InterfaceWatch implements Disposable {
  readonly #namespace: OwnedFd;
  readonly #socket: NetlinkSocket;
  /** Numbers of the taps that are there: what happens to them is our own doing. */
  readonly #taps = new Set<number>();

  /** Changes from now on are told. Fails with not-found for a path that is no namespace. */
  constructor(netns: string) {
    this.#namespace = openFd(netns, O_RDONLY);
    try {
      this.#socket = inNetns(netns, () => new NetlinkSocket(NETLINK_ROUTE, GROUPS));
    } catch (thrown) {
      this.#namespace.close();
      throw thrown;
    }
  }

  /** Path of the namespace, which stays valid until this is disposed of, whoever leaves the namespace. */
  get netns(): string {
    return `/proc/${process.pid}/fd/${this.#namespace.fd}`;
  }

  /** Resolves with the next change, at once. Rejects when `signal` aborts. */
  async next(signal: AbortSignal): Promise<void> {
    for (;;) {
      let datagram: Uint8Array;
      try {
        datagram = await this.#socket.receive(signal);
      } catch (thrown) {
        // More happened than the kernel kept for us.
        if (thrown instanceof SystemError && thrown.errno === "ENOBUFS") return;
        throw thrown;
      }
      // Each of them is looked at, for the taps that it tells of.
      if (decodeMessages(datagram).filter((message) => this.#matters(message)).length > 0) return;
    }
  }

  #matters(message: NetlinkMessage): boolean {
    const { type, payload } = message;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    switch (type & ~1) {
      case RTM_NEWLINK:
        return !this.#isTap(type, view.getInt32(4, true), payload);
      case RTM_NEWROUTE:
        return !this.#taps.has(readU32(decodeAttributes(payload, ROUTE_BYTES).get(RTA_OIF)) ?? 0);
      case RTM_NEWNEIGH:
        return (view.getUint16(NEIGHBOUR_STATE, true) & NUD_PERMANENT) !== 0;
      case RTM_NEWRULE:
        return true;
      default:
        return !this.#taps.has(view.getUint32(4, true));
    }
  }

  #isTap(type: number, index: number, payload: Uint8Array): boolean {
    const name = decodeAttributes(payload, LINK_BYTES).get(IFLA_IFNAME);
    if (name === undefined || !isTapName(fromCString(name))) return false;
    if (type === RTM_DELLINK) this.#taps.delete(index);
    else this.#taps.add(index);
    return true;
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
    this.#namespace.close();
  }
}
