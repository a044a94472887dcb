/** How far the guest's kernel reads ahead in a shared directory. */
import { statSync, writeFileSync } from "node:fs";
import { describeError } from "../../errors.ts";
import { SHARE_READ_AHEAD_KIB } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { splitDeviceNumber } from "../../sys/device-number.ts";

/** Of the file system that is mounted there, whose bind mounts have it too. Without it reading is slower, no more. */
export function readAhead(mountPoint: string, log: Log): void {
  try {
    const { major, minor } = splitDeviceNumber(statSync(mountPoint).dev);
    // Source: Linux Documentation/ABI/testing/sysfs-class-bdi.
    writeFileSync(`/sys/class/bdi/${major}:${minor}/read_ahead_kb`, `${SHARE_READ_AHEAD_KIB}`);
  } catch (thrown) {
    log.warn("read-ahead not set", { mountPoint, error: describeError(thrown) });
  }
}
