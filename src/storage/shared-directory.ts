/** The directory a VM shares with its host: a shared mount, served by virtiofsd or by QEMU's own 9p server. */
import { closeSync, mkdirSync, openSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { HearthError } from "../errors.ts";
import { QEMU_CONNECT_RETRY_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import type { VmPaths } from "../paths.ts";
import { asFd } from "../sys/fd.ts";
import { bindMount, makeShared, unmountTree } from "../sys/mount.ts";
import { type ChildProcess, describeExit, spawnProcess, terminate } from "../sys/process.ts";
import { identifyProcess, type ProcessIdentity } from "../sys/process-identity.ts";
import { sleep } from "../util/wait.ts";

export const SHARED_DIRECTORY_TAG = "hearthShared";

export interface SharedDirectoryOptions {
  readonly paths: VmPaths;
  readonly sharedFs: "virtio-fs" | "virtio-9p";
  readonly virtiofsdPath: string;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** The device as hypervisor/ takes it. */
export type SharedDirectoryDevice =
  | { readonly kind: "shared-directory-virtio-fs"; readonly tag: string; readonly socketPath: string }
  | { readonly kind: "shared-directory-9p"; readonly tag: string; readonly path: string; readonly readOnly: boolean };

/** A host path that appears in the shared directory until this is disposed. */
export interface ExposedPath extends AsyncDisposable {
  readonly relativePath: string;
}

export interface SharedDirectory extends AsyncDisposable {
  readonly device: SharedDirectoryDevice;
  /** Options for the guest's mount of the tag. */
  readonly guestMountOptions: readonly string[];
  readonly processes: readonly ProcessIdentity[];
  /** Makes a directory or file of the host appear at `relativePath`, changes visible both ways. */
  expose(hostPath: string, relativePath: string): Promise<ExposedPath>;
}

/** Makes `paths.shared` a shared mount, and starts virtiofsd where it is asked for. */
export async function openSharedDirectory(options: SharedDirectoryOptions): Promise<SharedDirectory> {
  const { shared } = options.paths;
  await using undo = new AsyncDisposableStack();
  mkdirSync(shared, { recursive: true, mode: 0o755 });
  bindMount(shared, shared);
  undo.defer(() => void unmountTree(shared, { detach: true }));
  // A daemon in a mount namespace of its own sees later bind mounts only through a shared mount.
  makeShared(shared);
  if (options.sharedFs === "virtio-9p") {
    const device = { kind: "shared-directory-9p", tag: SHARED_DIRECTORY_TAG, path: shared, readOnly: false } as const;
    return new OpenSharedDirectory(shared, device, GUEST_9P_OPTIONS, [], undo.move());
  }
  const daemon = await startVirtiofsd(options);
  undo.defer(async () => void (await terminate(daemon, { graceMs: 0 })));
  const device = {
    kind: "shared-directory-virtio-fs",
    tag: SHARED_DIRECTORY_TAG,
    socketPath: options.paths.virtiofsdSocket,
  } as const;
  return new OpenSharedDirectory(shared, device, [], [identifyProcess(daemon.pid)], undo.move());
}

/** Source: Linux Documentation/filesystems/9p.rst. */
const GUEST_9P_OPTIONS = ["trans=virtio", "version=9p2000.L", "msize=262144", "cache=mmap", "access=any"];

class OpenSharedDirectory implements SharedDirectory {
  readonly device: SharedDirectoryDevice;
  readonly guestMountOptions: readonly string[];
  readonly processes: readonly ProcessIdentity[];
  readonly #path: string;
  readonly #undo: AsyncDisposableStack;

  constructor(
    path: string,
    device: SharedDirectoryDevice,
    guestMountOptions: readonly string[],
    processes: readonly ProcessIdentity[],
    undo: AsyncDisposableStack,
  ) {
    this.#path = path;
    this.device = device;
    this.guestMountOptions = guestMountOptions;
    this.processes = processes;
    this.#undo = undo;
  }

  async expose(hostPath: string, relativePath: string): Promise<ExposedPath> {
    const target = join(this.#path, relativePath);
    const isDirectory = statSync(hostPath).isDirectory();
    mkdirSync(isDirectory ? target : dirname(target), { recursive: true, mode: 0o755 });
    if (!isDirectory) writeFileSync(target, "");
    bindMount(hostPath, target, { recursive: isDirectory });
    return {
      relativePath,
      async [Symbol.asyncDispose]() {
        unmountTree(target, { detach: true });
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}

async function startVirtiofsd(options: SharedDirectoryOptions): Promise<ChildProcess> {
  const { paths } = options;
  const log = openSync(join(paths.dir, "virtiofsd.log"), "a", 0o600);
  let child: ChildProcess;
  try {
    child = spawnProcess({
      argv: [
        options.virtiofsdPath,
        `--socket-path=${paths.virtiofsdSocket}`,
        "-o",
        `source=${paths.shared},sandbox=namespace,cache=auto,xattr,announce_submounts`,
        "-f",
      ],
      stdio: ["ignore", asFd(log), asFd(log)],
      detached: true,
    });
  } finally {
    closeSync(log);
  }
  while (!isSocket(paths.virtiofsdSocket)) {
    if (child.status !== undefined) {
      throw new HearthError("internal", `start virtiofsd: ${describeExit(child.status)}`, {
        facts: { path: options.virtiofsdPath },
      });
    }
    await Promise.race([sleep(QEMU_CONNECT_RETRY_MS, options.signal), child.exited]);
  }
  return child;
}

function isSocket(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isSocket() === true;
}
