/** Tells of changes to the interfaces of a network namespace, once they have come to rest. */
import { SystemError } from "../errors.ts";
import { INTERFACE_REST_MS } from "../limits.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../sys/datagram-socket.ts";
import { O_RDONLY, type OwnedFd, openFd } from "../sys/fd.ts";
import { inNetns } from "../sys/namespace.ts";

/** Links, and their addresses of both families. Source: linux/rtnetlink.h, RTMGRP_*. */
const GROUPS = 0x1 | 0x10 | 0x100;

export class InterfaceWatch implements Disposable {
  readonly #namespace: OwnedFd;
  readonly #socket: NetlinkSocket;

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

  /**
   * Resolves when something has changed since the last call and then nothing for INTERFACE_REST_MS: an interface is made,
   * moved, renamed, given addresses and set up in so many steps. Rejects when `signal` aborts.
   */
  async changed(signal: AbortSignal): Promise<void> {
    await this.#next(signal);
    for (;;) {
      const rest = AbortSignal.timeout(INTERFACE_REST_MS);
      try {
        await this.#next(AbortSignal.any([signal, rest]));
      } catch (thrown) {
        if (signal.aborted || !rest.aborted) throw thrown;
        return;
      }
    }
  }

  async #next(signal: AbortSignal): Promise<void> {
    try {
      await this.#socket.receive(signal);
    } catch (thrown) {
      // More happened than the kernel kept for us.
      if (!(thrown instanceof SystemError) || thrown.errno !== "ENOBUFS") throw thrown;
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
    this.#namespace.close();
  }
}
