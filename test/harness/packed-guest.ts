/** A guest of a few kilobytes, packed as the build packs the real one, so that unpacking can be tested in a moment. */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { GUEST_FILES, GUEST_MANIFEST } from "../../src/paths.ts";
import { type GuestManifest, guestDigest } from "../../src/vm/guest-manifest.ts";
import type { PackedGuest } from "../../src/vm/guest-source.ts";

/** Bytes per file; the larger of them cross several chunks of the decompressor. */
const SIZES = { kernel: 3_000_000, initrd: 1, image: 2_097_152 } as const;

/** Writes the packed files into `dir`. `seed` makes guests with other contents, and so other digests. */
export function packGuest(dir: string, seed: number): PackedGuest & { readonly contents: ReadonlyMap<string, Buffer> } {
  mkdirSync(dir, { recursive: true });
  const contents = new Map<string, Buffer>();
  for (const [role, name] of Object.entries(GUEST_FILES)) {
    const size = role === "kernel" ? SIZES.kernel : role === "initrd" ? SIZES.initrd : SIZES.image;
    contents.set(name, Buffer.alloc(size, `${seed} ${name} `));
  }
  const files = [...contents].map(([name, bytes]) => ({
    name,
    sha256: createHash("sha256").update(bytes).digest("hex"),
    size: bytes.length,
  }));
  const manifest: GuestManifest = {
    digest: guestDigest(files),
    kernelVersion: `0.0.${seed}`,
    inputs: "0".repeat(64),
    files,
  };
  for (const [name, bytes] of contents) writeFileSync(join(dir, `${name}.zst`), zstdCompressSync(bytes));
  writeFileSync(join(dir, GUEST_MANIFEST), JSON.stringify(manifest));
  return { kind: "packed", dir, manifest, contents };
}
