/** The OCI process that `exec` asks for: a given one, or the container's own with another command and some changes. */
import { HearthError } from "../../errors.ts";
import type { Process } from "../../oci/spec.ts";

export interface ProcessChanges {
  readonly cwd: string | undefined;
  readonly env: readonly string[];
  readonly tty: boolean;
  /** "uid" or "uid:gid". */
  readonly user: string | undefined;
  readonly "additional-gids": readonly string[];
  readonly "no-new-privs": boolean;
  readonly cap: readonly string[];
  readonly apparmor: string | undefined;
  readonly "process-label": string | undefined;
}

/** Fails with invalid-argument naming the flag. `given` is used as it is, but for a terminal that `--tty` adds. */
export function buildProcess(
  given: Process | undefined,
  own: Process,
  changes: ProcessChanges,
  args: readonly string[],
): Process {
  if (given !== undefined) {
    if (given.args === undefined || given.args.length === 0) throw noCommand();
    return changes.tty ? { ...given, terminal: true } : given;
  }
  if (args.length === 0) throw noCommand();
  const { consoleSize: _size, ...process } = own;
  const changed: Process = { ...process, args: [...args], terminal: changes.tty };
  if (changes.cwd !== undefined) changed.cwd = checkedCwd(changes.cwd);
  if (changes.env.length > 0) changed.env = [...(own.env ?? []), ...changes.env];
  if (changes.apparmor) changed.apparmorProfile = changes.apparmor;
  if (changes["process-label"]) changed.selinuxLabel = changes["process-label"];
  if (changes["no-new-privs"]) changed.noNewPrivileges = true;
  changed.user = changedUser(own.user, changes);
  if (changes.cap.length > 0) changed.capabilities = withCapabilities(own.capabilities ?? {}, changes.cap);
  return changed;
}

function noCommand(): HearthError {
  return new HearthError("invalid-argument", "process args cannot be empty");
}

function checkedCwd(cwd: string): string {
  if (cwd.startsWith("/")) return cwd;
  throw new HearthError("invalid-argument", `use --cwd ${JSON.stringify(cwd)}: must be an absolute path`);
}

function changedUser(own: Process["user"], changes: ProcessChanges): Process["user"] {
  const user = { ...own };
  if (changes.user !== undefined) {
    const at = changes.user.indexOf(":");
    const [uid, gid] = at < 0 ? [changes.user] : [changes.user.slice(0, at), changes.user.slice(at + 1)];
    user.uid = idOf("--user", uid);
    user.gid = gid === undefined ? user.gid : idOf("--user", gid);
  }
  const groups = changes["additional-gids"].map((gid) => idOf("--additional-gids", gid));
  if (groups.length > 0) user.additionalGids = [...(own.additionalGids ?? []), ...groups];
  return user;
}

/** Numbers only: names are the container's, and its files are not read here. As runc. */
function idOf(flag: string, text: string): number {
  const id = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (id <= 0x7fff_ffff) return id;
  throw new HearthError("invalid-argument", `use ${flag} ${JSON.stringify(text)}: must be a number below 2^31`);
}

/** As runc: never to the inheritable set, and so to the ambient one only what the container's inheritable set has. */
function withCapabilities(
  own: NonNullable<Process["capabilities"]>,
  added: readonly string[],
): NonNullable<Process["capabilities"]> {
  const join = (set: readonly string[] | undefined, more = added): string[] => [...new Set([...(set ?? []), ...more])];
  const raisable = added.filter((name) => own.inheritable?.includes(name) === true);
  return {
    ...own,
    bounding: join(own.bounding),
    effective: join(own.effective),
    permitted: join(own.permitted),
    ambient: join(own.ambient, raisable),
  };
}
