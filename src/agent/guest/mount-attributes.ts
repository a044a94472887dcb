/**
 * Flags of mounts that crun 1.8 does not know (`nosymfollow` and its kin) or does not keep (those of the mount that a read-only
 * path is in, and of the one that the root is on, on the host). Set from outside, in the mount namespace that crun has made, before the container's program runs.
 */
import { resolve } from "node:path";
import { HearthError, SystemError, toHearthError } from "../../errors.ts";
import {
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_NOSYMFOLLOW,
  setMountAttributes,
} from "../../sys/mount.ts";
import { inMountNamespace } from "../../sys/namespace.ts";
import { isRecord } from "./json-record.ts";

export interface MountAttributes {
  /** Of the configuration, without what crun must not see. */
  readonly mounts: readonly unknown[];
  /** Sets the rest in the mount namespace of the init process. Fails when a mount cannot have what it asks for. */
  readonly apply: (initPid: number) => void;
}

interface MountView {
  readonly destination: string;
  readonly options: readonly string[];
}

interface Change {
  readonly path: string;
  readonly set: bigint;
  readonly clear: bigint;
  /** With what is mounted below. */
  readonly recursive: boolean;
  /** What is not there is none: read-only paths may be missing. */
  readonly optional: boolean;
}

const SYMFOLLOW = /^r?(?:no)?symfollow$/;

/** `rootFlags` are options, such as "nosuid", that the root has beside what the configuration says of it. */
export function mountAttributes(
  mounts: readonly unknown[],
  readonlyPaths: readonly unknown[],
  rootFlags: readonly unknown[] = [],
): MountAttributes {
  const views = mounts.map(viewOf);
  const root = { destination: "/", options: rootFlags.filter(isText) };
  const changes = [
    ...symlinkChanges(views),
    ...readonlyChanges([root, ...views], readonlyPaths.filter(isText)),
    ...rootChanges(root),
  ];
  const isOurs = ({ options }: MountView): boolean => options.some((option) => SYMFOLLOW.test(option));
  return {
    mounts: mounts.map((mount, index) => {
      const view = views[index];
      if (view === undefined || !isRecord(mount) || !isOurs(view)) return mount;
      return { ...mount, options: view.options.filter((option) => !SYMFOLLOW.test(option)) };
    }),
    apply: (initPid) => {
      if (changes.length === 0) return;
      inMountNamespace(`/proc/${initPid}/ns/mnt`, () => changes.forEach(makeChange));
    },
  };
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function viewOf(mount: unknown): MountView {
  const { destination, options } = isRecord(mount) ? mount : {};
  return {
    destination: resolve("/", isText(destination) ? destination : ""),
    options: Array.isArray(options) ? options.filter(isText) : [],
  };
}

/** The last of `name` and `noname`: whether it takes the right away; undefined when neither is there. */
function isForbidden({ options }: MountView, name: string, prefix = ""): boolean | undefined {
  const last = options.findLast((option) => option === `${prefix}${name}` || option === `${prefix}no${name}`);
  return last === undefined ? undefined : last.startsWith(`${prefix}no`);
}

/** Of those that no later mount hides. In their order, as recursive ones are of what is mounted below until then. */
function symlinkChanges(views: readonly MountView[]): Change[] {
  const changes: Change[] = [];
  for (const [index, view] of views.entries()) {
    const { destination: path } = view;
    if (views.slice(index + 1).some((later) => isInside(later.destination, path))) continue;
    const deep = isForbidden(view, "symfollow", "r");
    const forbidden = deep ?? isForbidden(view, "symfollow");
    const isReached = changes.some((earlier) => earlier.recursive && isInside(earlier.path, path));
    if (forbidden === undefined && !isReached) continue;
    const [set, clear] = forbidden === true ? [MOUNT_ATTR_NOSYMFOLLOW, 0n] : [0n, MOUNT_ATTR_NOSYMFOLLOW];
    changes.push({ path, set, clear, recursive: deep !== undefined, optional: false });
  }
  return changes;
}

const KEPT: readonly (readonly [string, bigint])[] = [
  ["suid", MOUNT_ATTR_NOSUID],
  ["dev", MOUNT_ATTR_NODEV],
  ["exec", MOUNT_ATTR_NOEXEC],
];

function flagsOf(view: MountView): bigint {
  return KEPT.filter(([name]) => isForbidden(view, name) === true).reduce((bits, [, flag]) => bits | flag, 0n);
}

function rootChanges(root: MountView): Change[] {
  const set = flagsOf(root) | (isForbidden(root, "symfollow") === true ? MOUNT_ATTR_NOSYMFOLLOW : 0n);
  return set === 0n ? [] : [{ path: "/", set, clear: 0n, recursive: false, optional: false }];
}

/** A read-only path is a mount of its own with the flags of the one that it is in. */
function readonlyChanges(views: readonly MountView[], paths: readonly string[]): Change[] {
  return paths.flatMap((given) => {
    const path = resolve("/", given);
    const around = views.findLast(({ destination }) => isInside(destination, path));
    const set = around === undefined ? 0n : flagsOf(around);
    return set === 0n ? [] : [{ path, set, clear: 0n, recursive: false, optional: true }];
  });
}

/** Both are absolute; a directory is inside itself. */
function isInside(directory: string, path: string): boolean {
  return directory === "/" || path === directory || path.startsWith(`${directory}/`);
}

/** Source: mount_setattr(2): EINVAL for what is no mount. */
const NOT_THERE: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "EACCES", "EINVAL"]);

function makeChange({ path, set, clear, recursive, optional }: Change): void {
  try {
    setMountAttributes(path, { set, clear, recursive });
  } catch (thrown) {
    if (optional && thrown instanceof SystemError && NOT_THERE.has(thrown.errno)) return;
    const { code } = toHearthError(thrown, `mount ${path}`);
    throw new HearthError(code, `mount ${path}: set its flags`, { cause: thrown });
  }
}
