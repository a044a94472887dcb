/** Which QEMU versions we can use, and which we have tried. */
import { HearthError, toHearthError } from "../../errors.ts";
import { QEMU_VERSION_TIMEOUT_MS } from "../../limits.ts";
import { runProcess } from "../../sys/run-process.ts";

export interface VersionNumber {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
}

/** Hard minimum: the first whose q35 plugs devices by ACPI as the guest expects, and with typed device_add over QMP. */
export const QEMU_VERSION_MIN: VersionNumber = { major: 6, minor: 2, micro: 0 };
/** Soft minimum: the oldest that our tests run with. */
export const QEMU_VERSION_TESTED: VersionNumber = { major: 7, minor: 2, micro: 0 };

const INSTALL_HINT = "install qemu-system-x86 or set [hypervisor.qemu] path";

export function formatVersion({ major, minor, micro }: VersionNumber): string {
  return `${major}.${minor}.${micro}`;
}

/** From the first line of `qemu-system-x86_64 --version`; undefined when that is not it. */
export function parseQemuVersion(text: string): VersionNumber | undefined {
  const match = /^QEMU emulator version (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?/m.exec(text);
  if (match === null) return undefined;
  return { major: Number(match[1]), minor: Number(match[2]), micro: Number(match[3] ?? "0") };
}

function isBelow(a: VersionNumber, b: VersionNumber): boolean {
  if (a.major !== b.major) return a.major < b.major;
  if (a.minor !== b.minor) return a.minor < b.minor;
  return a.micro < b.micro;
}

/** Throws "failed-precondition" below the hard minimum; a text to warn with below the soft one. */
export function checkQemuVersion(version: VersionNumber, qemuPath: string): string | undefined {
  if (isBelow(version, QEMU_VERSION_MIN)) {
    throw new HearthError(
      "failed-precondition",
      `use qemu ${qemuPath}: version ${formatVersion(version)} is older than ${formatVersion(QEMU_VERSION_MIN)}`,
      { hint: INSTALL_HINT, facts: { version: formatVersion(version) } },
    );
  }
  if (!isBelow(version, QEMU_VERSION_TESTED)) return undefined;
  return `qemu ${formatVersion(version)} is older than ${formatVersion(QEMU_VERSION_TESTED)}, the oldest that is tested`;
}

/** Asks the program itself. "not-found" when it is missing, "failed-precondition" when it is no QEMU. */
export async function probeQemuVersion(qemuPath: string, signal?: AbortSignal): Promise<VersionNumber> {
  let output: string;
  try {
    const run = { timeoutMs: QEMU_VERSION_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) };
    output = (await runProcess([qemuPath, "--version"], run)).stdout;
  } catch (thrown) {
    throw missingQemu(thrown, qemuPath);
  }
  const version = parseQemuVersion(output);
  if (version !== undefined) return version;
  throw new HearthError("failed-precondition", `use qemu ${qemuPath}: it does not say its version`, {
    hint: INSTALL_HINT,
  });
}

/** The error for a QEMU that could not be started at all; others pass as they are. */
export function missingQemu(thrown: unknown, qemuPath: string): HearthError {
  const error = toHearthError(thrown, `start qemu ${qemuPath}`);
  if (error.code !== "not-found" && error.code !== "permission-denied") return error;
  return new HearthError(error.code, error.message, { cause: error.cause, facts: error.facts, hint: INSTALL_HINT });
}
