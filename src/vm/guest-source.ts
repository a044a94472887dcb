/** Where the guest's files come from: the executable that carries them, or the build directory when run from source. */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { EMBEDDED_GUEST_DIR, EMBEDDED_ROOT, GUEST_MANIFEST } from "../paths.ts";
import { type GuestManifest, parseGuestManifest } from "./guest-manifest.ts";

/** Files compressed with zstd, each named `<name>.zst`, beside the manifest. */
export interface PackedGuest {
  readonly kind: "packed";
  readonly manifest: GuestManifest;
  readonly dir: string;
}

/** Files ready to boot from, where the build put them. */
export interface BuiltGuest {
  readonly kind: "built";
  readonly manifest: GuestManifest;
  readonly dir: string;
}

export type GuestSource = PackedGuest | BuiltGuest;

/** The guest of this program; undefined when it was built without one. Reads the manifest only. */
export function guestSource(): GuestSource | undefined {
  const packed = join(EMBEDDED_ROOT, EMBEDDED_GUEST_DIR);
  if (import.meta.path.startsWith("/$bunfs/")) return readSource("packed", packed);
  return readSource("built", resolve(import.meta.dir, "../../build/guest"));
}

export function readSource(kind: GuestSource["kind"], dir: string): GuestSource | undefined {
  const path = join(dir, GUEST_MANIFEST);
  if (!existsSync(path)) return undefined;
  return { kind, dir, manifest: parseGuestManifest(readFileSync(path, "utf8"), path) };
}
