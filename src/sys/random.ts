/** The kernel's random pool: crediting entropy to it and having it reseed. */
import { HearthError } from "../errors.ts";
import { O_WRONLY, openFd } from "./fd.ts";
import { check, lazyLibc, struct } from "./libc.ts";

/** Source: linux/random.h, for x86_64. */
const RNDADDENTROPY = 0x40085203n;
const RNDRESEEDCRNG = 0x5207n;

const libc = lazyLibc({ ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" } });

/**
 * Mixes `seed` (1 to 512 bytes of real randomness) into the kernel's pool, credits it, and makes the generator use it
 * at once. When this returns, no output can repeat what another clone of this machine has drawn. Needs CAP_SYS_ADMIN.
 */
export function reseedKernelRandom(seed: Uint8Array): void {
  if (seed.length < 1 || seed.length > 512) {
    throw new HearthError("invalid-argument", `reseed random pool with ${seed.length} bytes: 1 to 512 are accepted`);
  }
  using device = openFd("/dev/urandom", O_WRONLY);
  const { bytes, view } = struct(8 + seed.length);
  view.setInt32(0, seed.length * 8, true);
  view.setInt32(4, seed.length, true);
  bytes.set(seed, 8);
  check(libc().ioctl(device.fd, RNDADDENTROPY, bytes), "add entropy to random pool");
  check(libc().ioctl(device.fd, RNDRESEEDCRNG, null), "reseed random generator");
}
