/** The manifest that the last build of the guest left beside its files. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { HearthError, isNotFound } from "../src/errors.ts";
import { GUEST_MANIFEST } from "../src/paths.ts";
import { type GuestFile, type GuestManifest, guestDigest, parseGuestManifest } from "../src/vm/guest-manifest.ts";

export { type GuestFile, type GuestManifest, guestDigest };

/** The manifest in a directory; undefined when there is none that can be understood. */
export async function readManifest(directory: string): Promise<GuestManifest | undefined> {
  const path = join(directory, GUEST_MANIFEST);
  try {
    return parseGuestManifest(await readFile(path, "utf8"), path);
  } catch (thrown) {
    if (isNotFound(thrown) || (thrown instanceof HearthError && thrown.code === "invalid-argument")) return undefined;
    throw thrown;
  }
}
