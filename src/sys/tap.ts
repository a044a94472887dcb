/** Tap interfaces: a network interface of the calling thread's network namespace whose packets are read and written at a descriptor. */
import { O_CLOEXEC, O_NONBLOCK, O_RDWR, type OwnedFd, openFd } from "./fd.ts";
import { check, cString, lazyLibc } from "./libc.ts";

const libc = lazyLibc({ ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" } });

/** Source: linux/if_tun.h; struct ifreq of linux/if.h: 16 bytes of name, then flags. */
const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFREQ_BYTES = 40;
const IFNAMSIZ = 16;

/**
 * Makes the interface; it is gone when the last descriptor of it is closed. `name` is at most 15 bytes.
 * Fails with EBUSY for a name in use.
 */
export function openTap(name: string): OwnedFd {
  const tun = openFd("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  try {
    const request = new Uint8Array(IFREQ_BYTES);
    request.set(cString(name).subarray(0, IFNAMSIZ - 1));
    new DataView(request.buffer).setUint16(IFNAMSIZ, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, true);
    check(libc().ioctl(tun.fd, BigInt(TUNSETIFF), request), `make tap interface ${name}`);
    return tun;
  } catch (error) {
    tun[Symbol.dispose]();
    throw error;
  }
}
