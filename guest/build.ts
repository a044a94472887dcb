/** Builds the guest: kernel, initrd and root image, with a manifest whose digest names them all. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { HearthError } from "../src/errors.ts";
import { GUEST_FILES, GUEST_MANIFEST } from "../src/paths.ts";
import { AGENT_ENTRY, compileAgent } from "./agent.ts";
import { layOutRoot, packImage, resolveLibraries } from "./image.ts";
import { makeInitrd } from "./initrd.ts";
import { fetchKernel, readKernelImage } from "./kernel.ts";
import { type GuestFile, type GuestManifest, guestDigest, readManifest } from "./manifest.ts";
import { imageModuleNames } from "./module-list.ts";
import { installModules, readModuleSource, resolveModules } from "./modules.ts";
import { type Progress, printProgress } from "./progress.ts";
import { extractVmlinux } from "./vmlinux.ts";

export interface GuestBuildOptions {
  /** Root of the repository. Default: the one this file is in. */
  readonly repository?: string;
  /** Where vmlinux, initrd.cpio, rootfs.erofs and manifest.json go. Default `<repository>/build/guest`. */
  readonly outputDir?: string;
  /** Downloads and intermediate files that survive a build. Default `<repository>/build/cache`. */
  readonly cacheDir?: string;
  /** A ready agent executable instead of compiling src/agent/guest/main.ts. */
  readonly agent?: string;
  /** Look for a newer kernel package instead of keeping the cached one. Default false. */
  readonly refreshKernel?: boolean;
  /** Default: lines on standard error. */
  readonly progress?: Progress;
}

export interface GuestBuild {
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
  /** sha256, hexadecimal, over kernel, initrd and image. */
  readonly digest: string;
  readonly kernelVersion: string;
}

const BUSYBOX = "/bin/busybox";
const CRUN = "/usr/bin/crun";
const NSENTER = "/usr/bin/nsenter";

/** Builds what changed since the last time. Errors: "unavailable" for a missing tool or package, "internal" for a failing tool. */
export async function buildGuest(options: GuestBuildOptions = {}): Promise<GuestBuild> {
  const repository = options.repository ?? resolve(import.meta.dir, "..");
  const outputDir = options.outputDir ?? join(repository, "build/guest");
  const cacheDir = options.cacheDir ?? join(repository, "build/cache");
  const progress = options.progress ?? printProgress((line) => process.stderr.write(line));
  await mkdir(cacheDir, { recursive: true });
  for (const path of [BUSYBOX, CRUN, NSENTER]) requireFile(path);

  const agent = options.agent ?? (await upToDateAgent(repository, cacheDir, progress));
  const kernel = await fetchKernel(cacheDir, options.refreshKernel ?? false, progress);
  const inputs = await digestInputs(join(repository, "guest"), kernel.vmlinuz, agent);
  const current = await readManifest(outputDir);
  if (current?.inputs === inputs && current.files.every(({ name }) => existsSync(join(outputDir, name)))) {
    progress("up to date");
    return describe(outputDir, current);
  }

  await mkdir(outputDir, { recursive: true });
  const work = await mkdtemp(join(cacheDir, "work-"));
  try {
    progress("extract vmlinux");
    await writeFile(join(work, GUEST_FILES.kernel), await extractVmlinux(await readKernelImage(kernel)));
    const modules = await readModuleSource(kernel);
    progress("make initrd");
    const init = join(repository, "guest/initrd/init");
    const initrd = await makeInitrd({ init, busybox: BUSYBOX, modules, kernelVersion: kernel.version });
    await writeFile(join(work, GUEST_FILES.initrd), initrd);
    progress("lay out root image");
    const root = join(work, "root");
    await mkdir(root);
    const skeleton = join(repository, "guest/rootfs");
    await layOutRoot(root, { skeleton, busybox: BUSYBOX, crun: CRUN, nsenter: NSENTER, agent });
    const paths = resolveModules(imageModuleNames(), modules.table, modules.builtin, modules.soft);
    await installModules(modules, kernel.version, paths, root);
    progress("pack root image");
    await packImage(root, join(work, GUEST_FILES.image));
    const manifest = await makeManifest(work, kernel.version, inputs);
    // The manifest goes last: whoever reads it finds the files it names.
    for (const name of Object.values(GUEST_FILES)) await rename(join(work, name), join(outputDir, name));
    await writeFile(join(outputDir, GUEST_MANIFEST), `${JSON.stringify(manifest, undefined, 2)}\n`);
    progress(`done: ${manifest.digest.slice(0, 16)}, kernel ${manifest.kernelVersion}`);
    return describe(outputDir, manifest);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function requireFile(path: string): void {
  if (existsSync(path)) return;
  throw new HearthError("unavailable", `find ${path}`, { hint: "install the Debian packages of scripts/packages.txt" });
}

async function upToDateAgent(repository: string, cacheDir: string, progress: Progress): Promise<string> {
  const executable = join(cacheDir, "hearth-agent");
  const stamp = `${executable}.inputs`;
  const inputs = createHash("sha256").update(Bun.version);
  await hashTree(inputs, join(repository, "src"));
  await hashTree(inputs, join(repository, "guest/agent.ts"));
  const wanted = inputs.digest("hex");
  const have = existsSync(stamp) && existsSync(executable) ? await readFile(stamp, "utf8") : "";
  if (have === wanted) return executable;
  progress("compile agent");
  await compileAgent(repository, AGENT_ENTRY, executable);
  await writeFile(stamp, wanted);
  return executable;
}

/** Everything the result depends on: the build's own files, the kernel package, and the programs with their libraries. */
async function digestInputs(buildFiles: string, vmlinuz: string, agent: string): Promise<string> {
  const hash = createHash("sha256");
  await hashTree(hash, buildFiles);
  const libraries = await resolveLibraries([CRUN, NSENTER, agent]);
  for (const path of [vmlinuz, BUSYBOX, CRUN, NSENTER, agent, ...libraries.values()]) await hashTree(hash, path);
  return hash.digest("hex");
}

async function hashTree(hash: Bun.CryptoHasher | ReturnType<typeof createHash>, path: string): Promise<void> {
  const file = Bun.file(path);
  if (await file.exists()) {
    const bytes = await file.bytes();
    hash.update(`${path.slice(path.lastIndexOf("/") + 1)} ${bytes.length}\n`);
    hash.update(bytes);
    return;
  }
  for (const name of (await readdir(path)).sort()) {
    if (!name.endsWith(".test.ts")) await hashTree(hash, join(path, name));
  }
}

async function makeManifest(directory: string, kernelVersion: string, inputs: string): Promise<GuestManifest> {
  const files: GuestFile[] = [];
  for (const name of Object.values(GUEST_FILES)) {
    const bytes = await readFile(join(directory, name));
    files.push({ name, sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length });
  }
  return { digest: guestDigest(files), kernelVersion, inputs, files };
}

function describe(outputDir: string, manifest: GuestManifest): GuestBuild {
  return {
    kernel: join(outputDir, GUEST_FILES.kernel),
    initrd: join(outputDir, GUEST_FILES.initrd),
    image: join(outputDir, GUEST_FILES.image),
    digest: manifest.digest,
    kernelVersion: manifest.kernelVersion,
  };
}

if (import.meta.main) {
  const built = await buildGuest({ refreshKernel: process.argv.includes("--refresh-kernel") });
  process.stdout.write(`${JSON.stringify(built, undefined, 2)}\n`);
}
