/** Reads and checks a bundle, before anything is made: config.json, rootfs, terminal and network namespace. */
import { closeSync, fstatSync, lstatSync, openSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { HearthError, isNotFound, toHearthError } from "../../errors.ts";
import { OCI_CONFIG_BYTES_MAX } from "../../limits.ts";
import { checkCreatable, type Mount, type Process, parseSpec, type Spec } from "../../oci/spec.ts";
import { checkRules } from "../../oci/spec-rules.ts";
import { refuse } from "../../sandbox/refuse.ts";
import { isOwnNetns } from "../../sys/namespace.ts";

export interface Bundle {
  /** Absolute. */
  readonly dir: string;
  readonly spec: Spec & { readonly process: Process };
  /** config.json as it was read. */
  readonly configJson: Uint8Array;
  /** Absolute. */
  readonly rootfs: string;
  readonly netns: BundleNetns;
}

/** "path": a namespace that exists; "new": one of its own, empty; "host": none asked for. */
export type BundleNetns =
  | { readonly kind: "path"; readonly path: string }
  | { readonly kind: "new" }
  | { readonly kind: "host" };

/** `dir` as given on the command line. Fails with invalid-argument or not-found, naming the file or property. */
export function readBundle(dir: string): Bundle {
  const bundleDir = resolve(dir);
  checkDirectory("bundle", bundleDir);
  const source = join(bundleDir, "config.json");
  const configJson = readConfig(source);
  const spec = parseSpec(new TextDecoder().decode(configJson), source);
  checkCreatable(spec, source);
  checkRules(spec, source);
  const rootfs = resolve(bundleDir, spec.root?.path ?? "");
  checkDirectory("rootfs", rootfs);
  for (const mount of spec.mounts ?? []) checkMountPoint(mount, rootfs);
  return { dir: bundleDir, spec, configJson, rootfs, netns: netnsOf(spec, source) };
}

function readConfig(source: string): Uint8Array {
  let fd: number;
  try {
    fd = openSync(source, "r");
  } catch (thrown) {
    if (isNotFound(thrown)) throw new HearthError("not-found", `JSON specification file ${source} not found`);
    throw toHearthError(thrown, `open ${source}`);
  }
  try {
    const { size } = fstatSync(fd);
    if (size > OCI_CONFIG_BYTES_MAX) {
      throw new HearthError("invalid-argument", `read ${source}: ${size} bytes, at most ${OCI_CONFIG_BYTES_MAX}`);
    }
    return readFileSync(fd);
  } catch (thrown) {
    throw toHearthError(thrown, `read ${source}`);
  } finally {
    closeSync(fd);
  }
}

function checkDirectory(what: string, path: string): void {
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (thrown) {
    if (isNotFound(thrown)) throw new HearthError("not-found", `invalid ${what} ${path}: no such file or directory`);
    throw toHearthError(thrown, `inspect ${what} ${path}`);
  }
  if (!isDirectory) throw new HearthError("invalid-argument", `invalid ${what} ${path}: not a directory`);
}

/** As runc: a link in the image must not lead the kernel's own file systems, and what masks parts of them, elsewhere. */
function checkMountPoint({ type, destination }: Mount, rootfs: string): void {
  if (type !== "proc" && type !== "sysfs") return;
  const found = lstatSync(join(rootfs, destination), { throwIfNoEntry: false });
  if (found === undefined || found.isDirectory()) return;
  throw new HearthError(
    "invalid-argument",
    `mount ${destination}: filesystem ${JSON.stringify(type)} must be mounted on ordinary directory`,
  );
}

function netnsOf(spec: Spec, source: string): BundleNetns {
  const namespace = (spec.linux?.namespaces ?? []).find(({ type }) => type === "network");
  if (namespace === undefined) return { kind: "host" };
  const { path } = namespace;
  if (path === undefined || path === "") return { kind: "new" };
  if (!path.startsWith("/")) {
    throw new HearthError("invalid-argument", `check ${source}: network namespace path ${path} must be absolute`);
  }
  try {
    statSync(path);
  } catch (thrown) {
    throw toHearthError(thrown, `use network namespace ${path}`);
  }
  // Docker names the host's by a path. Connecting it to a VM would take the host its network.
  if (isOwnNetns(path)) {
    refuse("linux.namespaces network path", `${path} is the host's network, which does not reach into a VM`);
  }
  return { kind: "path", path };
}
