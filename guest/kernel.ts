/** Fetches Debian's kernel package and unpacks it beside the build; the host's own kernel and packages stay as they are. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { describeError, HearthError } from "../src/errors.ts";
import { run, runText } from "./command.ts";
import type { Progress } from "./progress.ts";

/** Debian's meta package that depends on the current kernel image. */
const META_PACKAGE = "linux-image-amd64";

export interface KernelTree {
  /** As `uname -r` says inside the guest. */
  readonly version: string;
  readonly vmlinuz: string;
  /** Directory that holds lib/modules/<version>. */
  readonly root: string;
}

/**
 * The unpacked kernel package in `<cacheDir>/kernel`, downloaded when the cache has none or `refresh` is set.
 * Errors: "unavailable" without a package index or network.
 */
export async function fetchKernel(cacheDir: string, refresh: boolean, progress: Progress): Promise<KernelTree> {
  const root = join(cacheDir, "kernel");
  if (!refresh && existsSync(root)) return await readKernelTree(root);
  const fresh = join(cacheDir, "kernel.new");
  const download = join(cacheDir, "download");
  for (const directory of [fresh, download]) {
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { recursive: true });
  }
  const archive = await downloadKernel(download, progress).catch(async (thrown: unknown) => {
    // No index at all, or one so old that the archive has replaced the package it names.
    progress(`update the package index: ${describeError(thrown)}`);
    await run(["apt-get", "update", "-qq"]);
    return await downloadKernel(download, progress);
  });
  progress(`unpack ${archive}`);
  await run(["dpkg-deb", "--extract", join(download, archive), fresh]);
  await readKernelTree(fresh);
  await rm(root, { recursive: true, force: true });
  await rename(fresh, root);
  await rm(download, { recursive: true });
  return await readKernelTree(root);
}

/** File name of the package, which is then in the directory. */
async function downloadKernel(directory: string, progress: Progress): Promise<string> {
  const packageName = await kernelPackageName();
  progress(`download ${packageName}`);
  await run(["apt-get", "download", "-qq", packageName], { cwd: directory });
  const archive = (await readdir(directory)).find((name) => name.endsWith(".deb"));
  if (archive === undefined) throw new HearthError("unavailable", `download ${packageName}: apt-get left no package`);
  return archive;
}

async function kernelPackageName(): Promise<string> {
  const listing = await runText(["apt-cache", "depends", "--important", META_PACKAGE]).catch((thrown: unknown) => {
    throw new HearthError("unavailable", `look up ${META_PACKAGE} in the package index`, { cause: thrown });
  });
  const name = /^\s*Depends:\s*(linux-image-\S+)$/m.exec(listing)?.[1];
  if (name === undefined) {
    throw new HearthError("unavailable", `look up ${META_PACKAGE}: it depends on no kernel`);
  }
  return name;
}

async function readKernelTree(root: string): Promise<KernelTree> {
  const vmlinuz = (await readdir(join(root, "boot"))).find((name) => name.startsWith("vmlinuz-"));
  if (vmlinuz === undefined) {
    throw new HearthError("not-found", `find vmlinuz in ${root}: not an unpacked kernel package`, {
      hint: `remove ${root} and build again`,
    });
  }
  return { version: vmlinuz.slice("vmlinuz-".length), vmlinuz: join(root, "boot", vmlinuz), root };
}

/** The bzImage itself. */
export async function readKernelImage(tree: KernelTree): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await readFile(tree.vmlinuz));
}
