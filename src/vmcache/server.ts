/** The pool server: claims its endpoint, takes over idle VMs, keeps the pool full and hands VMs out until it is told to end. */
import type { HearthConfig } from "../config/config.ts";
import { assert, describeError, HearthError } from "../errors.ts";
import { type CacheOptions, VmCache } from "../factory/cache.ts";
import { createPoolBase, TemplateMaker } from "../factory/pool-base.ts";
import { POOL_SHUTDOWN_GRACE_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { createGrpcServer } from "../rpc/grpc.ts";
import type { InheritedSocket } from "../sys/inherited-socket.ts";
import { listenInherited, listenUnix, type UnixListener } from "../sys/unix-socket.ts";
import { collectOrphans } from "../vm/collect.ts";
import { identityDigest, type VmConfig } from "../vm/vm-config.ts";
import { vmCacheStatus } from "./control.ts";
import { claimEndpoint, describeOccupant } from "./endpoint.ts";
import { createNotifier, type Notifier } from "./notify.ts";
import type { PoolEvent } from "./pool-event.ts";
import { findIdleVms } from "./readopt.ts";
import { cacheService } from "./service.ts";
import { startWatchdog } from "./watchdog.ts";

export interface PoolServerOptions {
  /** VMs kept ready, 1 or more. */
  readonly number: number;
  readonly endpoint: string;
  readonly runDir: string;
  readonly leaseMs: number;
  readonly logLevel: HearthConfig["runtime"]["log_level"];
  /** Where saved VMs are that the pool's are clones of, made by the server when needed; undefined: they are booted. */
  readonly templateDir?: string | undefined;
  /** What the pool's VMs are made from. */
  readonly vmConfig: VmConfig;
  readonly log: Log;
  /** Ends the server as Quit does: idle VMs are destroyed, those in use go on. */
  readonly signal: AbortSignal;
  readonly onEvent?: ((event: PoolEvent) => void) | undefined;
  /** Value of NOTIFY_SOCKET: systemd is told when the server answers, how full the pool is, and that it stops. */
  readonly notifySocket?: string | undefined;
  /** Milliseconds without a sign of life after which systemd ends the server; undefined when it does not watch. */
  readonly watchdogMs?: number | undefined;
  /** A socket that systemd listens on for us, bound to the endpoint; the server owns it. Default: one of our own. */
  readonly inherited?: InheritedSocket | undefined;
  /** Program of the sandbox processes. Default: this executable's `sandbox`. */
  readonly sandboxArgv?: readonly [string, ...string[]];
  /** Bounds and times other than those of limits.ts. */
  readonly cache?: Pick<
    CacheOptions,
    "backoff" | "bootsAtOnce" | "checkIntervalMs" | "leaseTimeoutMs" | "queueLengthMax" | "stableMs"
  >;
}

/** The options that come from the configuration. */
export function poolServerOptions(
  config: HearthConfig,
): Pick<PoolServerOptions, "number" | "endpoint" | "runDir" | "leaseMs" | "logLevel" | "templateDir"> {
  return {
    number: config.factory.vm_cache_number,
    endpoint: config.factory.vm_cache_endpoint,
    runDir: config.runtime.run_dir,
    leaseMs: config.factory.vm_cache_lease_ms,
    logLevel: config.runtime.log_level,
    templateDir: config.factory.enable_template ? config.factory.template_path : undefined,
  };
}

/**
 * Serves until `signal` aborts or a client calls Quit; resolves when the idle VMs are destroyed. Fails, with nothing made
 * or lost, when the endpoint cannot be had: "invalid-argument" for a path over 107 bytes, "already-exists" for one in use.
 */
export async function serveVmCache(options: PoolServerOptions): Promise<void> {
  const { endpoint, runDir, vmConfig, log, signal } = options;
  if (options.number < 1) {
    throw new HearthError("invalid-argument", "serve pool: vm_cache_number is 0, so there is nothing to keep", {
      hint: "set [factory] vm_cache_number, or pass --number",
    });
  }
  const startedAtMs = Date.now();
  assertEndpoint(endpoint, options.inherited);
  await using _claim = claimEndpoint(endpoint, runDir);
  const { promise: stopped, resolve: stop } = Promise.withResolvers<string>();
  const onAbort = (): void => stop("signal");
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  const entrance = new Entrance();
  await using listener = await listenOrExplain(options, entrance);
  const onEvent = (event: PoolEvent): void => {
    options.onEvent?.(event);
    notifier?.onEvent(event, cache.slots);
  };
  const notifier = createNotifier(options.notifySocket, log);
  const cache = createCache(options, onEvent);
  await using _cache = cache;
  const background: Promise<unknown>[] = [];
  const found = await findIdleVms({ runDir, identity: identityDigest(vmConfig), slots: options.number, log });
  background.push(found.ended);
  for (const vm of found.wanted) {
    assert(cache.adopt(vm), "an empty slot for every vm that was found");
    log.info("idle vm adopted", { vm: vm.facts.vmId });
    onEvent({ kind: "adopted", vmId: vm.facts.vmId });
  }
  const adopted = found.wanted.length;
  const quit = (): void => stop("quit");
  await using grpc = createGrpcServer([cacheService({ cache, vmConfig, runDir, startedAtMs, adopted, quit })], { log });
  entrance.open((stream) => grpc.accept(stream));
  log.info("pool serves", { endpoint, number: options.number, adopted });
  onEvent({ kind: "listening", endpoint });
  using watchdog = watch(options, notifier);
  background.push(collectOrphans(runDir, log).catch((thrown: unknown) => logFailure(log, "collect orphans", thrown)));
  cache.start();
  const reason = await stopped;
  watchdog?.[Symbol.dispose]();
  signal.removeEventListener("abort", onAbort);
  log.info("pool ends", { reason, idle: cache.slots.length });
  onEvent({ kind: "stopping", reason });
  listener.close();
  await Promise.all([cache.close(), grpc.shutdown(POOL_SHUTDOWN_GRACE_MS), ...background]);
}

type Connections = Parameters<typeof listenUnix>[1];

/** Holds connections that come before the server can answer them. */
class Entrance {
  #waiting: Parameters<Connections>[0][] = [];
  #accept: Connections | undefined;

  readonly enter: Connections = (stream) => {
    if (this.#accept === undefined) this.#waiting.push(stream);
    else this.#accept(stream);
  };

  open(accept: Connections): void {
    this.#accept = accept;
    for (const stream of this.#waiting.splice(0)) accept(stream);
  }
}

/** Who asks the endpoint must reach the socket that we were given. */
function assertEndpoint(endpoint: string, inherited: InheritedSocket | undefined): void {
  if (inherited === undefined || inherited.path === endpoint) return;
  throw new HearthError("invalid-argument", `serve pool on ${endpoint}: the inherited socket is ${inherited.path}`, {
    hint: "ListenStream= of the socket unit must be [factory] vm_cache_endpoint",
  });
}

async function listenOrExplain({ endpoint, inherited }: PoolServerOptions, entrance: Entrance): Promise<UnixListener> {
  if (inherited !== undefined) return listenInherited(inherited.socket, endpoint, entrance.enter);
  try {
    return await listenUnix(endpoint, entrance.enter);
  } catch (thrown) {
    throw await describeOccupant(endpoint, thrown);
  }
}

/** The whole way is checked: socket, gRPC, service. */
function watch(
  { endpoint, watchdogMs, log }: PoolServerOptions,
  notifier: Notifier | undefined,
): Disposable | undefined {
  if (watchdogMs === undefined || notifier === undefined) return undefined;
  return startWatchdog({
    timeoutMs: watchdogMs,
    check: (timeoutMs) => vmCacheStatus(endpoint, timeoutMs),
    ping: () => notifier.alive(),
    log,
  });
}

function createCache(options: PoolServerOptions, onEvent: (event: PoolEvent) => void): VmCache {
  const { runDir, leaseMs, logLevel, log, sandboxArgv, templateDir } = options;
  const argv = sandboxArgv === undefined ? {} : { argv: sandboxArgv };
  const maker =
    templateDir === undefined ? undefined : new TemplateMaker({ templateDir, runDir, logLevel, log, ...argv });
  return new VmCache({
    slots: options.number,
    config: options.vmConfig,
    runDir,
    leaseMs,
    log,
    base: (onStep) => createPoolBase(maker, { runDir, leaseMs, logLevel, log, onStep, ...argv }),
    onEvent,
    ...options.cache,
  });
}

function logFailure(log: Log, what: string, thrown: unknown): void {
  log.error(what, { error: describeError(thrown) });
}
