/** The security modules of the host's kernel: whether SELinux is at work, and the AppArmor profiles that are loaded. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { HearthError, type HearthErrorOptions, isNotFound, toHearthError } from "../errors.ts";
import { APPARMOR_PROFILE_BYTES_MAX } from "../limits.ts";

/** An AppArmor profile, as the host's kernel gives it out. */
export interface HostProfile {
  readonly name: string;
  /** With its children and hats. Undefined: it is loaded, but this kernel keeps to itself what it was given. */
  readonly binary: Uint8Array | undefined;
}

export interface HostSecurity {
  readonly hasSelinux: boolean;
  /** Fails with invalid-argument, in runc's words, for one that is not loaded. */
  readonly apparmorProfile: (name: string) => HostProfile;
}

/** `sys` is where sysfs is mounted. */
export function hostSecurity(sys = "/sys"): HostSecurity {
  return {
    // Source: Linux security/selinux/selinuxfs.c; it is mounted where SELinux has a policy to enforce.
    hasSelinux: existsSync(join(sys, "fs/selinux/enforce")),
    apparmorProfile: (name) => apparmorProfile(sys, name),
  };
}

/** Source: Linux security/apparmor/apparmorfs.c; `raw_data` needs CONFIG_SECURITY_APPARMOR_EXPORT_BINARY. */
function apparmorProfile(sys: string, name: string): HostProfile {
  if (!isApparmorEnabled(sys)) throw cannotApply(name, "this host has no AppArmor");
  const apparmor = join(sys, "kernel/security/apparmor");
  if (!existsSync(apparmor)) {
    const hint = `mount -t securityfs securityfs ${join(sys, "kernel/security")}`;
    throw cannotApply(name, `${apparmor} does not exist`, { hint });
  }
  const profiles = join(apparmor, "policy/profiles");
  const entries = orAbsent(() => readdirSync(profiles), `list ${profiles}`);
  if (entries === undefined) return { name, binary: undefined };
  // Directories are named after the profile, some characters replaced, and a number. The first guess is nearly always right.
  const likely = entries.filter((entry) => entry.startsWith(`${name}.`));
  const found = [...likely, ...entries].find((entry) => readProfileName(join(profiles, entry, "name")) === name);
  if (found === undefined) throw cannotApply(name, "it is not loaded on this host");
  const dir = join(profiles, found);
  if (orAbsent(() => readdirSync(dir), `list ${dir}`)?.includes("raw_data") === false)
    return { name, binary: undefined };
  const binary = readBinary(join(dir, "raw_data"), name);
  // Its link led nowhere: no reason to run without.
  if (binary === undefined) throw cannotApply(name, "it is just being replaced or removed");
  return { name, binary };
}

function isApparmorEnabled(sys: string): boolean {
  const file = join(sys, "module/apparmor/parameters/enabled");
  return orAbsent(() => readFileSync(file, "utf8"), `read ${file}`)?.startsWith("Y") === true;
}

/** Undefined when the profile has just been removed. */
function readProfileName(file: string): string | undefined {
  return orAbsent(() => readFileSync(file, "utf8"), `read ${file}`)?.replace(/\n$/, "");
}

function readBinary(file: string, name: string): Uint8Array | undefined {
  return orAbsent(() => {
    const { size } = statSync(file);
    if (size > APPARMOR_PROFILE_BYTES_MAX) {
      throw new HearthError(
        "resource-exhausted",
        `read AppArmor profile ${name}: ${size} bytes, more than ${APPARMOR_PROFILE_BYTES_MAX}`,
      );
    }
    return new Uint8Array(readFileSync(file));
  }, `read ${file}`);
}

/** What `read` returns; undefined where there is no such file. */
function orAbsent<T>(read: () => T, what: string): T | undefined {
  try {
    return read();
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw toHearthError(thrown, what);
  }
}

/** "apparmor failed to apply profile" is what runc says. */
export function cannotApply(name: string, why: string, options: HearthErrorOptions = {}): HearthError {
  const what = `apply process.apparmorProfile: apparmor failed to apply profile ${name}`;
  return new HearthError("invalid-argument", `${what}: ${why}`, options);
}
