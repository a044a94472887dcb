/** `hearth vmcache serve`: runs in the foreground, follows its configuration, and becomes the program that replaces it. */
import type { HearthConfig } from "../config/config.ts";
import { configPlaces, loadConfig } from "../config/load.ts";
import { HearthError } from "../errors.ts";
import { PROGRAM_TRIAL_TIMEOUT_MS } from "../limits.ts";
import { createLog, type Log, silentLog } from "../log.ts";
import { reexecEnv } from "../sys/environment.ts";
import { becomeProgram } from "../sys/exec.ts";
import { inheritedSocket } from "../sys/inherited-socket.ts";
import { isCompiled } from "../sys/process.ts";
import { runProcess } from "../sys/run-process.ts";
import { watchdogTimeoutMs } from "../sys/sd-notify.ts";
import { withDeadline } from "../util/wait.ts";
import { fileStamp, resolveVmConfig } from "../vm/resolve-config.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { type FoundSettings, followSettings } from "../vmcache/follow.ts";
import { serveVmCache } from "../vmcache/server.ts";
import { poolSettings } from "../vmcache/settings.ts";

/** Exit status that the systemd unit takes for a wish. Source: sysexits.h, EX_TEMPFAIL. */
const START_AGAIN = 75;

export interface ServeOptions {
  /** Value of `--config`. */
  readonly configPath: string | undefined;
  /** What the command line puts in the place of the configuration's. */
  readonly withFlags: (config: HearthConfig) => HearthConfig;
}

/** Until it is told to stop; the log goes to standard error. Resolves with the exit status. */
export async function servePool({ configPath, withFlags }: ServeOptions): Promise<number> {
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
  const hangUps = new Set<() => void>();
  process.on("SIGHUP", () => {
    for (const hangUp of hangUps) hangUp();
  });
  const source = { flag: configPath, environment: process.env["HEARTH_CONFIG"] };
  const config = withFlags(await loadConfig(source));
  const log = createLog({ level: config.runtime.log_level, format: "text" });
  const inherited = inheritedSocket(process.env, process.pid);
  const find = async (found: HearthConfig, quiet: Log): Promise<FoundSettings> => {
    const vm = await resolveVmConfig(found, quiet);
    return {
      settings: poolSettings(found, vm),
      files: [...configPlaces(source), ...filesOf(vm)],
      program: isCompiled() ? fileStamp(process.execPath) : undefined,
    };
  };
  const initial = await unlessStopped(find(config, log), stop.signal);
  if (initial === undefined) return 0;
  const end = await serveVmCache({
    endpoint: config.factory.vm_cache_endpoint,
    runDir: config.runtime.run_dir,
    logLevel: config.runtime.log_level,
    settings: initial.settings,
    log,
    signal: stop.signal,
    notifySocket: process.env["NOTIFY_SOCKET"],
    watchdogMs: watchdogTimeoutMs(process.env, process.pid),
    inherited,
    metrics: { endpoint: config.factory.vm_cache_metrics_endpoint, port: config.factory.vm_cache_metrics_port },
    follow: (listener) =>
      followSettings(
        {
          initial,
          // It has been said already that there is no KVM.
          read: async () => await find(withFlags(await loadConfig(source)), silentLog),
          tryProgram,
          onHangUp: (hangUp) => {
            hangUps.add(hangUp);
            return { [Symbol.dispose]: () => void hangUps.delete(hangUp) };
          },
          log,
        },
        listener,
      ),
  });
  if (end !== "replaced") return 0;
  // A socket of systemd's is systemd's to pass on: it starts the new program at once.
  if (inherited !== undefined) return START_AGAIN;
  becomeProgram(process.execPath, [process.argv0, ...process.argv.slice(2)], reexecEnv());
}

/** Undefined when the signal aborts first: unpacking the guest, or waiting for who does, may take minutes, and may be broken off. */
async function unlessStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  try {
    return await withDeadline("settings of the pool", work, { signal });
  } catch (thrown) {
    if (signal.aborted) return undefined;
    throw thrown;
  }
}

function filesOf(vm: VmConfig): string[] {
  const { qemuPath, virtiofsdPath, kernel, initrd, image } = vm;
  return [qemuPath, virtiofsdPath, kernel, initrd, image, process.execPath].filter((path) => path !== "");
}

/** A program that is half copied, or of another machine, is not to take over. */
async function tryProgram(signal: AbortSignal): Promise<void> {
  const { exitCode, stderr } = await runProcess([process.execPath, "--version"], {
    timeoutMs: PROGRAM_TRIAL_TIMEOUT_MS,
    signal,
  });
  if (exitCode === 0) return;
  throw new HearthError("failed-precondition", `try ${process.execPath}, which was replaced: exit status ${exitCode}`, {
    facts: { stderr: stderr.slice(0, 200) },
  });
}
