/** The options of a mount as crun 1.8, or the agent in its place, has to be given them, so that they do what they do to runc. */
import type { Mount } from "../oci/spec.ts";

/** Known to mount(8) and not to crun. Without effect on every file system that the guest can mount: taken away. */
const IDLE: ReadonlySet<string> = new Set(["silent", "loud", "iversion", "noiversion", "acl"]);
/** See id-mapping.ts: nothing for the guest, which has the mount as it is then. */
const ID_MAPPING: ReadonlySet<string> = new Set(["idmap", "ridmap"]);

const recursiveForms = (...names: readonly string[]): string[] => names.flatMap((name) => [`r${name}`, `rno${name}`]);
/** crun gives the kernel wrong flags for these. */
const RECURSIVE_TIMES: ReadonlySet<string> = new Set(recursiveForms("atime", "diratime", "relatime", "strictatime"));
/** And these it can do of directories alone. */
const RECURSIVE: ReadonlySet<string> = new Set([
  ...RECURSIVE_TIMES,
  "rro",
  "rrw",
  ...recursiveForms("suid", "dev", "exec", "symfollow"),
]);

/** Of which the last one counts; crun takes nothing back. */
const OPPOSITES: ReadonlyMap<string, string> = new Map(
  [
    ["ro", "rw"],
    ["async", "sync"],
    ...["suid", "dev", "exec", "atime", "diratime", "symfollow"].map((name) => [name, `no${name}`]),
  ].flatMap(([one = "", other = ""]) => [[one, other] as const, [other, one] as const]),
);

/** How a mount is propagated. Of these too the last one counts; crun gives the kernel them all at once, which it refuses. */
export const PROPAGATION = /^r?(?:private|shared|slave|unbindable)$/;

/** Flags that a mount has for itself: crun takes those away from a bind mount that it is not told of. */
export const FLAG = /^(?:r[ow]|(?:no)?(?:suid|dev|exec|atime|diratime|relatime|strictatime|symfollow))$/;
/** Those of the kernel's, as it shows them, that take something away. */
const KEPT = /^(?:ro|no(?:suid|dev|exec|atime|diratime|symfollow))$/;

/** A bind mount that says nothing of flags keeps those of the mount that it is of, to which crun would put an end. */
export function withFlags<T extends Mount>(mount: T, flagsOfSource: () => readonly string[]): T {
  const { options = [] } = mount;
  if (options.some((option) => FLAG.test(option))) return mount;
  return { ...mount, options: [...options, ...flagsOfSource().filter((option) => KEPT.test(option))] };
}

/**
 * Recursive options become their plain forms, which say the same unless `hasMountsBelow`. They are applied after the others.
 * Those of symbolic links the agent takes out and applies itself (agent/guest/mount-attributes.ts).
 */
export function guestOptions({ options = [] }: Mount, hasMountsBelow = false): string[] {
  const recursive = hasMountsBelow ? RECURSIVE_TIMES : RECURSIVE;
  const ordered = [
    ...options.filter((option) => !recursive.has(option) && !IDLE.has(option) && !ID_MAPPING.has(option)),
    ...options.filter((option) => recursive.has(option)).map((option) => option.slice(1)),
  ];
  const propagation = ordered.findLastIndex((option) => PROPAGATION.test(option));
  return ordered.filter((option, at) => {
    if (PROPAGATION.test(option)) return at === propagation;
    const opposite = OPPOSITES.get(option);
    return opposite === undefined || !ordered.includes(opposite, at + 1);
  });
}
