/** The options of a mount as crun 1.8 has to be given them, so that they do what they do to runc. */
import type { Mount } from "../oci/spec.ts";
import { refuse } from "./refuse.ts";

/** Known to mount(8) and not to crun. Without effect on every file system that the guest can mount: taken away. */
const IDLE: ReadonlySet<string> = new Set(["silent", "loud", "iversion", "noiversion", "acl"]);
/** What crun would take for data of the file system, which a bind mount ignores. */
const UNKNOWN: ReadonlySet<string> = new Set(
  ["nosymfollow", "symfollow", "idmap"].flatMap((name) => [name, `r${name}`]),
);

const recursiveForms = (...names: readonly string[]): string[] => names.flatMap((name) => [`r${name}`, `rno${name}`]);
/** crun gives the kernel wrong flags for these. */
const RECURSIVE_TIMES: ReadonlySet<string> = new Set(recursiveForms("atime", "diratime", "relatime", "strictatime"));
/** And these it can do of directories alone. */
const RECURSIVE: ReadonlySet<string> = new Set([
  ...RECURSIVE_TIMES,
  "rro",
  "rrw",
  ...recursiveForms("suid", "dev", "exec"),
]);

/** Of which the last one counts; crun takes nothing back. */
const OPPOSITES: ReadonlyMap<string, string> = new Map(
  [
    ["ro", "rw"],
    ["async", "sync"],
    ...["suid", "dev", "exec", "atime", "diratime"].map((name) => [name, `no${name}`]),
  ].flatMap(([one = "", other = ""]) => [[one, other] as const, [other, one] as const]),
);

/**
 * Recursive options become their plain forms, which say the same unless `hasMountsBelow`. They are applied after the others.
 * Fails with "unimplemented", naming the option.
 */
export function guestOptions({ destination, options = [] }: Mount, hasMountsBelow = false): string[] {
  const unknown = options.find((option) => UNKNOWN.has(option));
  if (unknown !== undefined) refuse(`mount ${destination} option ${unknown}`, "the guest's crun does not know it");
  const recursive = hasMountsBelow ? RECURSIVE_TIMES : RECURSIVE;
  const ordered = [
    ...options.filter((option) => !recursive.has(option) && !IDLE.has(option)),
    ...options.filter((option) => recursive.has(option)).map((option) => option.slice(1)),
  ];
  return ordered.filter((option, at) => {
    const opposite = OPPOSITES.get(option);
    return opposite === undefined || !ordered.includes(opposite, at + 1);
  });
}
