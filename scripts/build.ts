/** Builds what is missing or out of date: the protocol code, the guest, and the one executable that carries it. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { join, relative } from "node:path";
import { promisify } from "node:util";
import { constants, zstdCompress } from "node:zlib";
import { buildGuest, type GuestBuild } from "../guest/build.ts";
import { findLibrary } from "../guest/image.ts";
import packageJson from "../package.json" with { type: "json" };
import { EMBEDDED_GUEST_DIR, EMBEDDED_LIBRARY_DIR, GUEST_MANIFEST, SECCOMP_LIBRARY } from "../src/paths.ts";
import { lock } from "../src/sys/lock.ts";
import { survivesDeletedDirectory } from "./deleted-directory.ts";
import { generateCommand, PROTOCOLS } from "./protocols.ts";
import { mustRun, REPOSITORY, runCommand, step } from "./step.ts";

/** Nothing of the directory it is started in is read; see docs/DESIGN.md. */
const COMPILE_FLAGS: readonly string[] = [
  "--compile",
  "--minify",
  "--bytecode",
  "--format=esm",
  "--splitting",
  "--no-compile-autoload-bunfig",
  "--no-compile-autoload-dotenv",
  "--no-compile-autoload-tsconfig",
  "--no-compile-autoload-package-json",
];
/** Level 9: 2 s of work and a tenth more bytes than level 15, which takes 14 s. */
const ZSTD_LEVEL = 9;

const BUILD_DIR = join(REPOSITORY, "build");
const STAMP_DIR = join(BUILD_DIR, "stamps");
const EMBED_DIR = join(BUILD_DIR, "embed");
const DIST_DIR = join(REPOSITORY, "dist");
const EXECUTABLE = join(DIST_DIR, "hearth");
const RUNTIME_LINK = join(DIST_DIR, "hearth-runtime");

/** Paths of the files below a directory, relative to the repository, sorted. */
async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(join(REPOSITORY, directory), { withFileTypes: true, recursive: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.map((entry) => relative(REPOSITORY, join(entry.parentPath, entry.name))).sort();
}

async function digestOf(files: readonly string[], ...facts: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const fact of facts) hash.update(`${fact}\n`);
  for (const file of files) {
    const bytes = await readFile(join(REPOSITORY, file));
    hash.update(`${file} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest("hex");
}

/** Does the work unless the stamp says that it was done for these inputs. */
async function upToDate(name: string, digest: string, outputs: readonly string[]): Promise<boolean> {
  const stamp = join(STAMP_DIR, name);
  return (
    outputs.every((path) => existsSync(path)) && existsSync(stamp) && (await readFile(stamp, "utf8")) === `${digest}\n`
  );
}

async function writeStamp(name: string, digest: string): Promise<void> {
  await mkdir(STAMP_DIR, { recursive: true });
  await writeFile(join(STAMP_DIR, name), `${digest}\n`);
}

/** The generated code is committed; this regenerates it after a change of the protocols. */
async function buildProtocolCode(): Promise<string> {
  const inputs = async (): Promise<string> => {
    const files = PROTOCOLS.map(async ({ template, sources, output }) => [
      template,
      ...(await filesBelow(sources)),
      ...(await filesBelow(output)),
    ]);
    return await digestOf(["buf.yaml", ...(await Promise.all(files)).flat()]);
  };
  if (await upToDate("protocol", await inputs(), [])) return "up to date";
  for (const { template } of PROTOCOLS) await mustRun(generateCommand(template));
  await writeStamp("protocol", await inputs());
  return "generated";
}

/** The guest's files as they go into the executable: compressed, beside the manifest that names their digests. */
async function compressGuest(guest: GuestBuild): Promise<string> {
  const target = join(EMBED_DIR, EMBEDDED_GUEST_DIR);
  const manifest = await readFile(join(BUILD_DIR, "guest", GUEST_MANIFEST));
  const sources = [guest.kernel, guest.initrd, guest.image];
  const present = join(target, GUEST_MANIFEST);
  if (existsSync(present) && (await readFile(present)).equals(manifest)) return "up to date";
  await mkdir(EMBED_DIR, { recursive: true });
  const work = await mkdtemp(join(EMBED_DIR, "work-"));
  const sizes = await Promise.all(
    sources.map(async (source) => {
      const params = { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL };
      const packed = await promisify(zstdCompress)(await readFile(source), { params });
      await writeFile(join(work, `${source.slice(source.lastIndexOf("/") + 1)}.zst`), packed);
      return packed.length;
    }),
  );
  await writeFile(join(work, GUEST_MANIFEST), manifest);
  await rm(target, { recursive: true, force: true });
  await rename(work, target);
  return `${mib(sizes.reduce((sum, size) => sum + size, 0))} MiB`;
}

/** The libraries that the executable carries beside the guest, as Debian has them. Gives their digest. */
async function embedLibraries(): Promise<string> {
  const path = await findLibrary(SECCOMP_LIBRARY);
  const target = join(EMBED_DIR, EMBEDDED_LIBRARY_DIR);
  await mkdir(target, { recursive: true });
  const work = join(target, `.${SECCOMP_LIBRARY}`);
  await copyFile(path, work);
  await rename(work, join(target, SECCOMP_LIBRARY));
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

/** Abbreviated commit; with uncommitted changes "-dirty" and a digest of the sources, so that no two builds are confused. */
async function describeCommit(sources: string): Promise<string> {
  if (!existsSync(join(REPOSITORY, ".git"))) return `source-${sources.slice(0, 12)}`;
  const commit = (await mustRun(["git", "rev-parse", "--short=12", "HEAD"])).trim();
  const changes = await mustRun(["git", "status", "--porcelain", "--", "src", "guest", "proto", "package-lock.json"]);
  return changes.trim() === "" ? commit : `${commit}-dirty-${sources.slice(0, 12)}`;
}

async function buildExecutable(guest: GuestBuild): Promise<string> {
  const sources = (await filesBelow("src")).filter((file) => !file.endsWith(".test.ts"));
  const digest = await digestOf(
    ["package.json", "package-lock.json", "scripts/build.ts", "scripts/deleted-directory.ts", ...sources],
    Bun.version,
    guest.digest,
    await embedLibraries(),
  );
  const commit = await describeCommit(digest);
  const stamp = `${digest} ${commit}`;
  if (await upToDate("executable", stamp, [EXECUTABLE, RUNTIME_LINK])) return "up to date";
  await mkdir(DIST_DIR, { recursive: true });
  const work = await mkdtemp(join(DIST_DIR, ".work-"));
  try {
    const names = {
      HEARTH_VERSION: packageJson.version,
      HEARTH_COMMIT: commit,
      HEARTH_GUEST_KERNEL: guest.kernelVersion,
    };
    const defines = Object.entries(names).flatMap(([name, value]) => ["--define", `${name}=${JSON.stringify(value)}`]);
    const output = join(work, "hearth");
    const entry = join(REPOSITORY, "src/main.ts");
    const assets = [EMBEDDED_GUEST_DIR, EMBEDDED_LIBRARY_DIR].map((dir) => `--asset=${dir}`);
    const argv = [process.execPath, "build", ...COMPILE_FLAGS, ...defines, ...assets, entry];
    await mustRun([...argv, "--outfile", output], EMBED_DIR);
    survivesDeletedDirectory(output);
    await rename(output, EXECUTABLE);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  if ((await readlink(RUNTIME_LINK).catch(() => undefined)) !== "hearth") {
    await rm(RUNTIME_LINK, { force: true });
    await symlink("hearth", RUNTIME_LINK);
  }
  await writeStamp("executable", stamp);
  return `built dist/hearth, ${mib(Bun.file(EXECUTABLE).size)} MiB, ${commit}`;
}

async function build(): Promise<void> {
  await mkdir(BUILD_DIR, { recursive: true });
  // Two commands may be started at once in one tree; the second then finds everything done.
  await using _held = await lock(join(BUILD_DIR, "lock"));
  await step("build", "protocol code", buildProtocolCode);
  let guest: GuestBuild | undefined;
  await step("build", "guest", async () => {
    guest = await buildGuest({ repository: REPOSITORY });
    return `${guest.digest.slice(0, 12)}, kernel ${guest.kernelVersion}`;
  });
  const built = guest;
  if (built === undefined) return;
  await step("build", "guest, compressed", () => compressGuest(built));
  await step("build", "executable", () => buildExecutable(built));
}

await runCommand(build);
