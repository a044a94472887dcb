/** The virtiofsd process that serves a shared directory over vhost-user: QEMU's own (C) or the one that replaced it (Rust). */
import { HearthError, toHearthError } from "../errors.ts";
import { DEVICE_SOCKET_BACKLOG, GUEST_LOG_BYTES_MAX, VIRTIOFSD_VERSION_TIMEOUT_MS } from "../limits.ts";
import { CapturedOutput } from "../sys/captured-output.ts";
import { setNonBlocking } from "../sys/fd.ts";
import { type ChildProcess, describeExit, exitCodeOf, killGroup, spawnProcess, terminate } from "../sys/process.ts";
import { identifyProcess, type ProcessIdentity } from "../sys/process-identity.ts";
import { runProcess } from "../sys/run-process.ts";
import { listenSocket } from "../sys/scm.ts";

export type VirtiofsdKind = "c" | "rust";

/** Descriptor on which the daemon finds its listening socket. */
const LISTEN_FD = 3;

/** Which of the two it is, by what it answers to --version; undefined for something else. */
export function virtiofsdKind(versionOutput: string): VirtiofsdKind | undefined {
  if (/^virtiofsd version \d/m.test(versionOutput)) return "c";
  if (/^virtiofsd(?: backend)? v?\d/m.test(versionOutput)) return "rust";
  return undefined;
}

/**
 * Options, alike in both spellings:
 * sandbox=namespace: the daemon sees nothing but the directory, with the capabilities that file ownership needs and no more.
 * xattr: file capabilities (ping, sudo) are extended attributes. No POSIX ACLs: with them every creation in the guest
 * costs another round trip, and images do not carry any.
 * cache=auto: a file's metadata is believed for a second and its pages until it is opened again, so what the host
 * changes in a volume is seen; "always" would not see such changes at all. "never", or timeout=0, costs a round trip for each
 * component of a path: 2,000 files looked at in an emulated guest take 2 to 5 s then, in place of 0.02 to 0.5.
 * No announced submounts: the guest would make a file system of each exposed path, and Linux 6.1 sometimes dies in
 * taking one down while a release is under way ("VFS: Busy inodes after unmount of virtiofs", then a BUG in the exit of
 * a container). The price: files of two exposed paths may have equal inode numbers on one device.
 * Locks stay in the guest (the default): one that waits would occupy a thread of the daemon for ever.
 */
export function virtiofsdArguments(kind: VirtiofsdKind, path: string, directory: string): [string, ...string[]] {
  switch (kind) {
    case "c":
      return [
        path,
        "-f",
        `--fd=${LISTEN_FD}`,
        "-o",
        `source=${escapeFuseOption(directory)}`,
        "-o",
        "sandbox=namespace,cache=auto,xattr,log_level=warn",
      ];
    case "rust":
      return [
        path,
        `--fd=${LISTEN_FD}`,
        `--shared-dir=${directory}`,
        "--sandbox=namespace",
        "--cache=auto",
        "--xattr",
        "--log-level=warn",
      ];
  }
}

/** Commas and backslashes separate and escape. Source: libfuse, fuse_opt.c. */
function escapeFuseOption(value: string): string {
  return value.replaceAll(/[\\,]/g, (character) => `\\${character}`);
}

export interface Virtiofsd extends AsyncDisposable {
  readonly identity: ProcessIdentity;
  /** Resolves with how it ended and what it said last; never rejects. It ends by itself when QEMU has gone. */
  readonly ended: Promise<string>;
}

export interface VirtiofsdOptions {
  readonly path: string;
  /** What the guest sees. */
  readonly directory: string;
  readonly socket: string;
  readonly log: string;
  readonly signal?: AbortSignal;
}

/**
 * Starts the daemon in a session of its own. It makes files as the user that they are to belong to, but of whether that one
 * may do so it knows neither supplementary groups nor capabilities, and it is the guest's kernel that has decided: so it keeps its capabilities then.
 * QEMU can connect to the socket as soon as this returns: it listens
 * already, whoever answers. Whether the daemon can do its work QEMU finds out, or `ended` tells.
 */
export async function startVirtiofsd(options: VirtiofsdOptions): Promise<Virtiofsd> {
  const kind = await probeKind(options.path, options.signal);
  await using undo = new AsyncDisposableStack();
  const output = undo.use(CapturedOutput.open(options.log, GUEST_LOG_BYTES_MAX));
  using socket = listenSocket(options.socket, DEVICE_SOCKET_BACKLOG);
  // The daemon accepts once and takes EAGAIN for a failure: it has to wait for a QEMU that is slower than itself.
  setNonBlocking(socket.fd, false);
  const child: ChildProcess = spawnProcess({
    argv: virtiofsdArguments(kind, options.path, options.directory),
    stdio: ["ignore", output.writeEnd, output.writeEnd, socket.fd],
    detached: true,
    keepCapabilities: true,
  });
  output.closeWriteEnd();
  const outputs = undo.move();
  const ended = child.exited.then(async (status) => {
    await output.drain();
    await outputs.disposeAsync();
    const said = output.tail(LOG_TAIL_BYTES);
    return said === "" ? describeExit(status) : `${describeExit(status)}: ${said}`;
  });
  return {
    identity: identifyProcess(child.pid),
    ended,
    async [Symbol.asyncDispose]() {
      // Nothing to flush: every write it has acknowledged is in the kernel. With the child that it forks for its sandbox,
      // which is bound to its parent's life only some moments later.
      killGroup(child);
      await terminate(child, { graceMs: 0 });
      await ended;
    },
  };
}

/** Bytes of the daemon's log that go into an error: its last few lines. */
const LOG_TAIL_BYTES = 1024;

const HINT =
  'install virtiofsd (Debian 12: qemu-system-common), set [hypervisor.qemu] virtio_fs_daemon, or shared_fs = "virtio-9p"';

async function probeKind(path: string, signal: AbortSignal | undefined): Promise<VirtiofsdKind> {
  let said: string;
  let exitCode: number;
  try {
    const limits = { timeoutMs: VIRTIOFSD_VERSION_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) };
    const result = await runProcess([path, "--version"], limits);
    said = `${result.stdout}\n${result.stderr}`;
    exitCode = exitCodeOf(result.status);
  } catch (thrown) {
    const error = toHearthError(thrown, `start virtiofsd ${path}`);
    throw new HearthError(error.code, error.message, { cause: error.cause, facts: error.facts, hint: HINT });
  }
  const kind = exitCode === 0 ? virtiofsdKind(said) : undefined;
  if (kind !== undefined) return kind;
  throw new HearthError("failed-precondition", `use virtiofsd ${path}: it does not say its version`, { hint: HINT });
}
