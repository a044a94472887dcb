/** What this build is. The build replaces the HEARTH_* names; run from source they do not exist. */

declare const HEARTH_VERSION: string | undefined;
declare const HEARTH_COMMIT: string | undefined;
declare const HEARTH_GUEST_KERNEL: string | undefined;

export const VERSION: string = typeof HEARTH_VERSION === "string" ? HEARTH_VERSION : "0.1.0-dev";
/** Abbreviated commit id, with "-dirty" when the tree differed from it. */
export const COMMIT: string = typeof HEARTH_COMMIT === "string" ? HEARTH_COMMIT : "unknown";
/** Release of the guest kernel that the executable carries. */
export const GUEST_KERNEL: string = typeof HEARTH_GUEST_KERNEL === "string" ? HEARTH_GUEST_KERNEL : "none";
/** Version of the OCI runtime specification that state and features follow; any 1.x configuration is read. */
export const OCI_VERSION = "1.3.0";

/** The lines of `--version`; the first starts with the program's name as runc's does, which engines parse. */
export function versionText(program: string): string {
  return `${program} version ${VERSION}\ncommit: ${COMMIT}\nspec: ${OCI_VERSION}\nguest kernel: ${GUEST_KERNEL}\n`;
}
