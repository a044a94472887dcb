/** Lays out the guest's root file system and packs it as an erofs image that depends on nothing but its files. */
import { chmod, cp, lstat, mkdir, readdir, readFile, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { HearthError } from "../src/errors.ts";
import { run } from "./command.ts";
import { alignUp, parseElf, readInterpreter, readNeeded } from "./elf.ts";

/** A constant, so that equal trees make equal images. */
const UUID = "00000000-0000-4000-8000-686561727468";

/** Applets that something in the guest calls by path or name; the shell finds all others itself. */
const APPLETS: readonly string[] = [
  ...["init", "poweroff", "reboot", "modprobe", "insmod", "rmmod", "lsmod", "depmod", "ip", "switch_root"].map(
    (name) => `usr/sbin/${name}`,
  ),
  ...[
    "sh",
    "ash",
    "mount",
    "umount",
    "cat",
    "ls",
    "env",
    "true",
    "false",
    "sleep",
    "echo",
    "mkdir",
    "ln",
    "dmesg",
    "ps",
    "kill",
    "sync",
  ].map((name) => `usr/bin/${name}`),
];

/** Directories that are mount points or have to exist; modes as given. */
const DIRECTORIES: Readonly<Record<string, number>> = {
  dev: 0o755,
  mnt: 0o755,
  proc: 0o555,
  root: 0o700,
  run: 0o755,
  sys: 0o555,
  tmp: 0o1777,
  var: 0o755,
  "usr/bin": 0o755,
  "usr/sbin": 0o755,
  "usr/lib": 0o755,
  "usr/lib64": 0o755,
  "usr/share/hearth": 0o755,
};

const LINKS: Readonly<Record<string, string>> = {
  bin: "usr/bin",
  sbin: "usr/sbin",
  lib: "usr/lib",
  lib64: "usr/lib64",
  "etc/mtab": "../proc/self/mounts",
  "etc/resolv.conf": "../run/resolv.conf",
};

/** Where the host's own loader looks; the guest gets every library in LIBRARY_DIRECTORY. */
const HOST_LIBRARY_DIRECTORIES: readonly string[] = [
  "/usr/lib/x86_64-linux-gnu",
  "/lib/x86_64-linux-gnu",
  "/usr/lib64",
  "/lib64",
];
const LIBRARY_DIRECTORY = "usr/lib/x86_64-linux-gnu";

/** Loaded by programs at run time rather than named in their headers. */
const EXTRA_LIBRARIES: readonly string[] = ["libdl.so.2", "libpthread.so.0", "libm.so.6", "libc.so.6", "librt.so.1"];

export interface ImageContents {
  /** Directory copied as it is: the files of guest/rootfs. */
  readonly skeleton: string;
  readonly busybox: string;
  readonly crun: string;
  /** Of util-linux: busybox's does not know time namespaces. */
  readonly nsenter: string;
  readonly agent: string;
}

/** Makes the tree in `root`, which must be empty; modules are added by the caller. */
export async function layOutRoot(root: string, contents: ImageContents): Promise<void> {
  for (const path of Object.keys(DIRECTORIES)) await mkdir(join(root, path), { recursive: true });
  for (const [path, target] of Object.entries(LINKS)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await symlink(target, join(root, path));
  }
  await cp(contents.skeleton, root, { recursive: true });
  await writeFile(join(root, "etc/machine-id"), "");
  await copyProgram(contents.busybox, join(root, "usr/bin/busybox"));
  await copyProgram(contents.crun, join(root, "usr/bin/crun"));
  await copyProgram(contents.nsenter, join(root, "usr/bin/nsenter"));
  await copyProgram(contents.agent, join(root, "usr/bin/hearth-agent"));
  for (const applet of APPLETS) await symlink(relative(dirname(applet), "usr/bin/busybox"), join(root, applet));
  await installLibraries(root, [contents.crun, contents.nsenter, contents.agent]);
  await layOutRehearsal(join(root, "usr/share/hearth/rehearsal"), contents.busybox);
}

async function copyProgram(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await writeFile(to, await readFile(from), { mode: 0o755 });
}

/** Library name → host path of everything the programs need, directly or not. Errors: "not-found" for a library. */
export async function resolveLibraries(programs: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  const pending: string[] = [...EXTRA_LIBRARIES];
  const visit = async (path: string): Promise<void> => {
    const elf = parseElf(await readFile(path));
    const loader = readInterpreter(elf);
    pending.push(...readNeeded(elf), ...(loader === undefined ? [] : [basename(loader)]));
  };
  for (const program of programs) await visit(program);
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (found.has(name)) continue;
    const path = await findLibrary(name);
    found.set(name, path);
    await visit(path);
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Path of a library of the building machine's, by the name that programs have for it. "not-found" when it has none. */
export async function findLibrary(name: string): Promise<string> {
  for (const directory of HOST_LIBRARY_DIRECTORIES) {
    const path = join(directory, name);
    if (await Bun.file(path).exists()) return path;
  }
  throw new HearthError("not-found", `find shared library ${name}`, {
    facts: { searched: HOST_LIBRARY_DIRECTORIES.join(" ") },
  });
}

async function installLibraries(root: string, programs: readonly string[]): Promise<void> {
  for (const [name, path] of await resolveLibraries(programs)) {
    await copyProgram(path, join(root, LIBRARY_DIRECTORY, name));
  }
  const loader = "ld-linux-x86-64.so.2";
  await symlink(relative("usr/lib64", join(LIBRARY_DIRECTORY, loader)), join(root, "usr/lib64", loader));
  await writeFile(join(root, "etc/ld.so.conf"), `/${LIBRARY_DIRECTORY}\n`);
  await run(["ldconfig", "-r", root, "-X"]);
  await rm(join(root, "var/cache"), { recursive: true, force: true });
}

/** The root of the throw-away container that the agent runs before its VM is handed out. */
async function layOutRehearsal(directory: string, busybox: string): Promise<void> {
  const rootfs = join(directory, "rootfs");
  for (const path of ["bin", "dev", "etc", "proc", "sys", "tmp"]) await mkdir(join(rootfs, path), { recursive: true });
  await copyProgram(busybox, join(rootfs, "bin/busybox"));
  for (const name of ["sh", "true", "cat", "echo"]) await symlink("busybox", join(rootfs, "bin", name));
}

/**
 * The image is mapped into guest memory: a memory device has to be a multiple of 2 MiB.
 * Source: the kernel's include/linux/mmzone.h, SUBSECTION_SIZE.
 */
export const IMAGE_ALIGNMENT_BYTES = 2 * 1024 * 1024;

/**
 * Sets every mode, whatever the umask was, and packs. Neither compressed nor with file tails inside inodes: then the
 * guest can map every file directly (DAX) instead of copying it into its own page cache.
 */
export async function packImage(root: string, image: string): Promise<void> {
  await setModes(root, "");
  await rm(image, { force: true });
  await run(["mkfs.erofs", "--quiet", "-T0", "-Enoinline_data", `-U${UUID}`, "--all-root", "-x-1", image, root]);
  await truncate(image, alignUp((await stat(image)).size, IMAGE_ALIGNMENT_BYTES));
}

async function setModes(root: string, path: string): Promise<void> {
  const at = join(root, path);
  const status = await lstat(at);
  if (status.isSymbolicLink()) return;
  if (status.isDirectory()) {
    for (const name of (await readdir(at)).sort()) await setModes(root, join(path, name));
    await chmod(at, DIRECTORIES[path] ?? 0o755);
    return;
  }
  await chmod(at, (status.mode & 0o100) === 0 ? 0o644 : 0o755);
}
