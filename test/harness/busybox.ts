/** A container's root file system made of busybox-static alone, as a directory or as an image archive. */
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";

const BUSYBOX = "/bin/busybox";

/** Directories that engines and the OCI default mounts expect. */
const DIRECTORIES = ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"];

/** Lays the file system out in `dir`, which must be empty or missing. */
export async function makeRootfs(dir: string): Promise<void> {
  for (const name of DIRECTORIES) mkdirSync(join(dir, name), { recursive: true });
  copyFileSync(BUSYBOX, join(dir, "bin/busybox"));
  const applets = (await runOrThrow([BUSYBOX, "--list"])).trim().split("\n");
  for (const applet of applets) if (applet !== "busybox") symlinkSync("busybox", join(dir, "bin", applet));
  writeFileSync(join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
  writeFileSync(join(dir, "etc/group"), "root:x:0:\nstaff:x:50:nobody\nnogroup:x:65534:\n");
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** Writes an OCI image archive named `name` to `path`, using `work` for its parts. Needs no network and no engine. */
export async function makeImageArchive(
  path: string,
  name: string,
  work: string,
  command: readonly string[] = ["sh"],
): Promise<void> {
  const rootfs = join(work, "rootfs");
  const layout = join(work, "layout");
  const blobs = join(layout, "blobs/sha256");
  mkdirSync(blobs, { recursive: true });
  await makeRootfs(rootfs);
  const layerTar = join(work, "layer.tar");
  await runOrThrow(["tar", "--create", "--file", layerTar, "--owner=0", "--group=0", "--directory", rootfs, "."]);
  const add = (content: Uint8Array | string, mediaType: string): Descriptor => {
    const bytes = Buffer.from(content);
    const hex = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(join(blobs, hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const layer = add(readFileSync(layerTar), "application/vnd.oci.image.layer.v1.tar");
  const config = add(
    JSON.stringify({
      architecture: "amd64",
      os: "linux",
      config: { Env: ["PATH=/bin:/usr/bin"], Cmd: command },
      rootfs: { type: "layers", diff_ids: [layer.digest] },
      // One for each layer, or builds on top of it fail.
      history: [{ created_by: "busybox" }],
    }),
    "application/vnd.oci.image.config.v1+json",
  );
  const manifest = add(
    JSON.stringify({ schemaVersion: 2, config, layers: [layer] }),
    "application/vnd.oci.image.manifest.v1+json",
  );
  const annotations = { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest" };
  writeFileSync(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  writeFileSync(
    join(layout, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
  );
  await runOrThrow(["tar", "--create", "--file", path, "--directory", layout, "."]);
}
