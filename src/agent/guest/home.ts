/**
 * HOME of a process that is not given one, or an empty one. crun 1.8 takes it from the container's passwd, or "/" without such a file, but
 * leaves out a user whom the file does not know, as images have many when Kubernetes chooses the number.
 */
import { describeError } from "../../errors.ts";
import { PASSWD_BYTES_MAX } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { readInRoot } from "../../sys/open-in-root.ts";
import { isRecord, type JsonRecord, listAt, recordAt } from "./json-record.ts";

/** The process, with HOME when crun would leave it without. `root` is the root directory that it will have. */
export function withHome(process: JsonRecord, root: string, log: Log): JsonRecord {
  const all = listAt(process, "env");
  const given = all.findLast(isHome);
  if (given !== undefined && given !== "HOME=") return process;
  const env = all.filter((entry) => !isHome(entry));
  const homeless = given === undefined ? process : { ...process, env };
  const { uid = 0 } = recordAt(process, "user");
  try {
    const passwd = readInRoot(root, "etc/passwd", PASSWD_BYTES_MAX);
    if (passwd === undefined || knowsUser(passwd, String(uid))) return homeless;
  } catch (thrown) {
    log.warn("passwd not read", { root, error: describeError(thrown) });
    return homeless;
  }
  return { ...process, env: [...env, "HOME=/"] };
}

const isHome = (entry: unknown): boolean => typeof entry === "string" && entry.startsWith("HOME=");

/** Source: passwd(5). */
function knowsUser(passwd: string, uid: string): boolean {
  return passwd.split("\n").some((line) => line.split(":")[2] === uid);
}

/** The container's passwd is not the one below its root directory. */
export function hidesPasswd(mounts: readonly unknown[]): boolean {
  return mounts.some((mount) => isRecord(mount) && /^\/+(?:etc(?:\/+passwd)?)?\/*$/.test(String(mount["destination"])));
}
