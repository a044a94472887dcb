/** Runs the host's OCI hooks: state on standard input, own environment, a deadline each, in order. */
import { HearthError, toHearthError } from "../errors.ts";
import { HOOK_TIMEOUT_MS_DEFAULT } from "../limits.ts";
import { cleanEnv } from "../sys/environment.ts";
import { pipe } from "../sys/fd.ts";
import { FdWriter } from "../sys/fd-writer.ts";
import { describeExit } from "../sys/process.ts";
import { type RunResult, runProcess } from "../sys/run-process.ts";
import type { Hook } from "./spec.ts";

export type HookPoint = "prestart" | "createRuntime" | "poststart" | "poststop";

/**
 * Runs them one after the other in the directory `bundle`; the first failure stops and is thrown, naming hook and
 * reason. `state` is the OCI state as JSON.
 */
export async function runHooks(
  point: HookPoint,
  hooks: readonly Hook[] | undefined,
  state: string,
  bundle: string,
): Promise<void> {
  for (const [index, hook] of (hooks ?? []).entries()) await runHook(`${point} hook #${index}`, hook, state, bundle);
}

async function runHook(name: string, hook: Hook, state: string, bundle: string): Promise<void> {
  const fail = (why: string, cause?: unknown): never => {
    throw new HearthError("failed-precondition", `error running ${name}: ${hook.path}: ${why}`, { cause });
  };
  const result = await startHook(hook, state, bundle).catch((thrown) =>
    fail(toHearthError(thrown, "start").message.replace(`start ${hook.path}: `, ""), thrown),
  );
  if (result.exitCode === 0) return;
  const output = [result.stdout, result.stderr].map((text) => text.trim().replace(/\s*\n\s*/g, "; "));
  fail(`${describeExit(result.status)}, stdout: ${output[0]}, stderr: ${output[1]}`);
}

async function startHook(hook: Hook, state: string, bundle: string): Promise<RunResult> {
  const input = pipe({ nonBlockingWrite: true });
  using writer = new FdWriter(input.writeEnd);
  using readEnd = input.readEnd;
  const [argv0, ...args] = hook.args ?? [];
  const running = runProcess([hook.path, ...args], {
    ...(argv0 === undefined ? {} : { argv0 }),
    env: hookEnvironment(hook.env),
    cwd: bundle,
    stdin: readEnd.fd,
    timeoutMs: hook.timeout === undefined ? HOOK_TIMEOUT_MS_DEFAULT : hook.timeout * 1000,
  });
  // The child has its end by now. A hook that does not read its state (EPIPE) is nevertheless a good hook.
  readEnd.close();
  const written = writer.write(new TextEncoder().encode(state)).then(
    () => writer.close(),
    () => writer.close(),
  );
  try {
    return await running;
  } finally {
    writer.close();
    await written;
  }
}

/** Exactly the hook's own when it has one, as the spec says; otherwise the short constructed one, never ours. */
function hookEnvironment(env: readonly string[] | undefined): Record<string, string> {
  if (env === undefined) return { ...cleanEnv() };
  return Object.fromEntries(
    env.map((entry) => {
      const at = entry.indexOf("=");
      return at < 0 ? [entry, ""] : [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
}
