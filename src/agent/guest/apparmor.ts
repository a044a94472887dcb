/**
 * AppArmor profiles of the host, given to the guest's kernel; crun then names them. Source: Linux security/apparmor/apparmorfs.c,
 * policy_unpack.c.
 */
import { closeSync, constants, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { HearthError, isErrnoException, isNotFound, toHearthError } from "../../errors.ts";
import { MS_NODEV, MS_NOEXEC, MS_NOSUID, mount } from "../../sys/mount.ts";

const ENABLED = "/sys/module/apparmor/parameters/enabled";
/** crun takes AppArmor for missing where this is not mounted. */
const SECURITYFS = "/sys/kernel/security";
/** Takes a compiled profile in one write, whether it has that one or not. */
const REPLACE = `${SECURITYFS}/apparmor/.replace`;
/** Of a profile in a form that this kernel does not know, as that of a newer one. */
const UNKNOWN_FORM: ReadonlySet<string> = new Set(["EPROTO", "EPROTONOSUPPORT", "EINVAL"]);

/** Fails with unimplemented when the kernel has no AppArmor, or does not know the form of the profile; invalid-argument without one. */
export function loadApparmorProfile(binary: Uint8Array): void {
  if (binary.length === 0) throw new HearthError("invalid-argument", "load AppArmor profile: it is empty");
  if (!isEnabled()) throw new HearthError("unimplemented", "load AppArmor profile: the guest's kernel has no AppArmor");
  if (!existsSync(REPLACE)) {
    mount({ source: "securityfs", target: SECURITYFS, type: "securityfs", flags: MS_NOSUID | MS_NODEV | MS_NOEXEC });
  }
  try {
    writeWhole(REPLACE, binary);
  } catch (thrown) {
    if (isErrnoException(thrown) && UNKNOWN_FORM.has(thrown.code)) {
      const what = "load AppArmor profile: the guest's kernel does not take it in the form of the host's";
      throw new HearthError("unimplemented", `${what}: ${thrown.code}`, { cause: thrown });
    }
    throw toHearthError(thrown, "load AppArmor profile");
  }
}

function isEnabled(): boolean {
  try {
    return readFileSync(ENABLED, "utf8").startsWith("Y");
  } catch (thrown) {
    if (isNotFound(thrown)) return false;
    throw toHearthError(thrown, `read ${ENABLED}`);
  }
}

/** By one write(2); nothing is created. */
function writeWhole(file: string, bytes: Uint8Array): void {
  const fd = openSync(file, constants.O_WRONLY);
  try {
    writeSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
}
