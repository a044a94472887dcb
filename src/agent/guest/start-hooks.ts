/**
 * A startContainer hook that fails is the end of the process that runs it: crun, before it becomes the program. It says so
 * on the container's standard error, as runc does, but in words of its own and without what the hook has said.
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import { isNotFound, toHearthError } from "../../errors.ts";
import { HOOK_OUTPUT_BYTES_MAX } from "../../limits.ts";
import type { GuestBundlePaths } from "../../paths.ts";

export interface StartHook {
  /** In the container. */
  readonly path: string;
  /** Seconds. */
  readonly timeout: number | undefined;
}

type HookFiles = Pick<GuestBundlePaths, "hooksStdout" | "hooksStderr">;

/** Annotations by which crun appends what hooks write to files, in place of dropping it. Source: crun(1). */
export function hookOutputAnnotations({ hooksStdout, hooksStderr }: HookFiles): Record<string, string> {
  return { "run.oci.hooks.stdout": hooksStdout, "run.oci.hooks.stderr": hooksStderr };
}

/** Forgets what createContainer hooks wrote. */
export function emptyHookFiles({ hooksStdout, hooksStderr }: HookFiles): void {
  for (const path of [hooksStdout, hooksStderr]) {
    try {
      writeFileSync(path, "");
    } catch (thrown) {
      throw toHearthError(thrown, `empty ${path}`);
    }
  }
}

/**
 * In runc's words what crun says, which is at the beginning of `said` and all that there will be; undefined for anything
 * else, such as that crun could not give a hook its state. crun does not tell a signal from an exit status above 128, nor a program that is not there from one that ends with 1.
 */
export function startHookFailure(said: string, files: HookFiles, hooks: readonly StartHook[]): string | undefined {
  // With a time and colours on a terminal. Source: crun 1.8, do_hooks.
  const [, path = "", status] = /^\S* ?error executing hook `([^`]*)` \(exit code: (-1|\d+)\)/.exec(said) ?? [];
  const index = hooks.findIndex((hook) => hook.path === path);
  const hook = hooks[index];
  if (hook === undefined) return undefined;
  if (status === "-1") {
    if (hook.timeout === undefined) return undefined;
    return `error running hook #${index}: hook ran past specified timeout of ${hook.timeout.toFixed(1)}s\n`;
  }
  const output = `stdout: ${read(files.hooksStdout)}, stderr: ${read(files.hooksStderr)}`;
  return `error running hook #${index}: error running hook: exit status ${status}, ${output}\n`;
}

function read(path: string): string {
  const bytes = Buffer.alloc(HOOK_OUTPUT_BYTES_MAX);
  try {
    const fd = openSync(path, "r");
    try {
      return bytes.toString("utf8", 0, readSync(fd, bytes));
    } finally {
      closeSync(fd);
    }
  } catch (thrown) {
    if (isNotFound(thrown)) return "";
    throw toHearthError(thrown, `read ${path}`);
  }
}
