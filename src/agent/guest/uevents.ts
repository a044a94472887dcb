/** The kernel's announcements that a device came, went or changed. */
import { SystemError } from "../../errors.ts";
import { NETLINK_KOBJECT_UEVENT, NetlinkSocket } from "../../sys/datagram-socket.ts";

/** The kernel's own multicast group; udev's is 2. Source: lib/kobject_uevent.c. */
const KERNEL_GROUP = 1;

export interface Uevents extends Disposable {
  /** Resolves at the next event, whatever it says. */
  next(signal: AbortSignal): Promise<void>;
}

/** Events from now on. */
export function uevents(): Uevents {
  const socket = new NetlinkSocket(NETLINK_KOBJECT_UEVENT, KERNEL_GROUP);
  return {
    next: async (signal) => {
      try {
        await socket.receive(signal);
      } catch (thrown) {
        // More events than the socket holds: there were some.
        if (!(thrown instanceof SystemError && thrown.errno === "ENOBUFS")) throw thrown;
      }
    },
    [Symbol.dispose]: () => socket[Symbol.dispose](),
  };
}
