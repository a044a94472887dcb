/** A block device of the host that a VM has to itself: claimed, so that nobody mounts on the host what a guest has mounted. */
import { readFileSync, type Stats, statSync } from "node:fs";
import { HearthError, SystemError, toHearthError } from "../errors.ts";
import { O_EXCL, O_RDONLY, O_RDWR, openFd } from "../sys/fd.ts";

/** Until it is disposed of, mounting the device on the host fails, and so does a second claim. */
export interface ClaimedDisk extends Disposable {
  /** Opens the device from any mount namespace, as long as this process lives. */
  readonly path: string;
  /** The device itself cannot be written to. */
  readonly readOnly: boolean;
}

/** "major:minor". Fails with invalid-argument for anything but a block device. */
export function diskNumber(path: string): string {
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch (thrown) {
    throw toHearthError(thrown, `use disk ${path}`);
  }
  if (!stats.isBlockDevice()) throw new HearthError("invalid-argument", `use disk ${path}: not a block device`);
  const { rdev } = stats;
  // Source: glibc's gnu_dev_major and gnu_dev_minor, for numbers below 2^32.
  return `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;
}

/** Fails with failed-precondition when the host uses it: mounted, swapped to, part of another device, or claimed. */
export function claimDisk(path: string): ClaimedDisk {
  const readOnly = isReadOnly(diskNumber(path));
  try {
    // Source: open(2), O_EXCL without O_CREAT on a block device.
    const claim = openFd(path, O_EXCL | (readOnly ? O_RDONLY : O_RDWR));
    return { path: `/proc/${process.pid}/fd/${claim.fd}`, readOnly, [Symbol.dispose]: () => claim.close() };
  } catch (thrown) {
    if (!(thrown instanceof SystemError) || thrown.errno !== "EBUSY") throw thrown;
    throw new HearthError("failed-precondition", `use disk ${path}: it is in use on the host or by another VM`, {
      cause: thrown,
      hint: "unmount it first: a file system that two kernels have mounted is destroyed",
    });
  }
}

function isReadOnly(number: string): boolean {
  try {
    return readFileSync(`/sys/dev/block/${number}/ro`, "utf8").trim() === "1";
  } catch (thrown) {
    throw toHearthError(thrown, `look whether disk ${number} is read-only`);
  }
}
