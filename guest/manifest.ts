/** The manifest beside the guest's files: what they are, and the digest that names the whole set. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { isNotFound } from "../src/errors.ts";

const Sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));

const GuestFileSchema = v.object({
  name: v.string(),
  sha256: Sha256,
  /** Bytes. */
  size: v.pipe(v.number(), v.integer(), v.minValue(1)),
});

const GuestManifestSchema = v.object({
  /** Over the names and digests of the files. */
  digest: Sha256,
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

/** The manifest in a directory; undefined when there is none that can be understood. */
export async function readManifest(directory: string): Promise<GuestManifest | undefined> {
  try {
    const parsed = v.safeParse(
      GuestManifestSchema,
      JSON.parse(await readFile(join(directory, "manifest.json"), "utf8")),
    );
    return parsed.success ? parsed.output : undefined;
  } catch (thrown) {
    if (isNotFound(thrown) || thrown instanceof SyntaxError) return undefined;
    throw thrown;
  }
}
