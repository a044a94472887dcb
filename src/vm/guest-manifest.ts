/** The manifest of the guest's files: what they are, and the digest that names the whole set. */
import { createHash } from "node:crypto";
import * as v from "valibot";
import { HearthError } from "../errors.ts";

const Sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));

const GuestFileSchema = v.object({
  /** A bare file name. */
  name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/)),
  sha256: Sha256,
  /** Bytes. */
  size: v.pipe(v.number(), v.integer(), v.minValue(1)),
});

const GuestManifestSchema = v.object({
  /** Over the names and digests of the files. */
  digest: Sha256,
  /** As `uname -r` says inside the guest. */
  kernelVersion: v.string(),
  /** Over what the files were built from. */
  inputs: Sha256,
  files: v.array(GuestFileSchema),
});

export type GuestFile = v.InferOutput<typeof GuestFileSchema>;
export type GuestManifest = v.InferOutput<typeof GuestManifestSchema>;

export function guestDigest(files: readonly GuestFile[]): string {
  const hash = createHash("sha256");
  for (const { name, sha256 } of files) hash.update(`${sha256}  ${name}\n`);
  return hash.digest("hex");
}

/** Errors: "invalid-argument" when it is no manifest, or when its digest is not that of its files. */
export function parseGuestManifest(text: string, origin: string): GuestManifest {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (thrown) {
    throw new HearthError("invalid-argument", `parse ${origin}`, { cause: thrown });
  }
  const result = v.safeParse(GuestManifestSchema, parsed);
  if (!result.success) {
    throw new HearthError("invalid-argument", `parse ${origin}: ${result.issues[0].message}`);
  }
  if (guestDigest(result.output.files) !== result.output.digest) {
    throw new HearthError("invalid-argument", `parse ${origin}: the digest is not that of the files`);
  }
  return result.output;
}
