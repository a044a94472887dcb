/** The pool server: claims its endpoint, takes over idle VMs, keeps the pool full and hands VMs out until it is told to end. */
import type { HearthConfig } from "../config/config.ts";
import { assert, describeError, HearthError } from "../errors.ts";
import { createPoolBase, TemplateMaker } from "../factory/pool-base.ts";
import { type PoolSettings, VmPool, type VmPoolOptions } from "../factory/vm-pool.ts";
import { POOL_SHUTDOWN_GRACE_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { createGrpcServer } from "../rpc/grpc.ts";
import { servePageLoopback, servePageUnix } from "../rpc/http-page.ts";
import type { InheritedSocket } from "../sys/inherited-socket.ts";
import { listenInherited, listenUnix, type UnixListener } from "../sys/unix-socket.ts";
import { PROMETHEUS_CONTENT_TYPE } from "../util/prometheus.ts";
import { collectOrphans } from "../vm/collect.ts";
import { identityDigest } from "../vm/vm-config.ts";
import { vmCacheStatus } from "./control.ts";
import { PoolEnding } from "./ending.ts";
import { claimEndpoint, describeOccupant } from "./endpoint.ts";
import { PoolObserver, poolMetrics } from "./metrics.ts";
import { createNotifier, type Notifier } from "./notify.ts";
import type { PoolEvent } from "./pool-event.ts";
import { findIdleVms } from "./readopt.ts";
import { cacheService } from "./service.ts";
import { startWatchdog } from "./watchdog.ts";

/** Hears of settings that are to take the place of those before. */
export interface SettingsListener {
  changed(settings: PoolSettings): void;
  /** There are others, and they cannot be used. */
  refused(error: HearthError): void;
  /** This program was replaced on disk: the server is to end, so that the new one can take its place. */
  replaced(): void;
}

export interface PoolServerOptions {
  readonly endpoint: string;
  readonly runDir: string;
  readonly logLevel: HearthConfig["runtime"]["log_level"];
  readonly settings: PoolSettings;
  /** Tells of other settings until it is disposed of. */
  readonly follow?: ((listener: SettingsListener) => AsyncDisposable) | undefined;
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
  /** Where metrics can be read. Default: nowhere. */
  readonly metrics?: MetricsPlaces | undefined;
  /** Program of the sandbox processes. Default: this executable's `sandbox`. */
  readonly sandboxArgv?: readonly [string, ...string[]];
  /** Measures the time that its end takes. Default: a timer. */
  readonly endsAfter?: ConstructorParameters<typeof PoolEnding>[1];
  /** Times other than those of limits.ts. */
  readonly times?: Pick<VmPoolOptions, "leaseTimeoutMs" | "stableMs" | "provenMs" | "lookIntervalMs">;
}

export interface MetricsPlaces {
  /** Unix socket; empty: none. */
  readonly endpoint: string;
  /** On 127.0.0.1; 0: none. */
  readonly port: number;
}

/** Why a server ended. */
export type PoolEnd = "signal" | "quit" | "replaced";

/**
 * Serves until `signal` aborts, a client calls Quit, or the program was replaced; resolves with which, when the idle VMs
 * are destroyed, POOL_END_TIMEOUT_MS later at the latest. Fails, with nothing made or lost, when the endpoint cannot be had: "invalid-argument" for a path over
 * 107 bytes, "already-exists" for one in use.
 */
export async function serveVmCache(options: PoolServerOptions): Promise<PoolEnd> {
  const { endpoint, runDir, settings, log, signal } = options;
  const startedAtMs = Date.now();
  assertEndpoint(endpoint, options.inherited);
  await using _claim = claimEndpoint(endpoint, runDir);
  const { promise: stopped, resolve: stop } = Promise.withResolvers<PoolEnd>();
  const onAbort = (): void => stop("signal");
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  const entrance = new Entrance();
  await using listener = await listenOrExplain(options, entrance);
  const onEvent = (event: PoolEvent): void => {
    options.onEvent?.(event);
    observer.onEvent(event);
    notifier?.onEvent(event, pool.slots);
  };
  const observer = new PoolObserver();
  const notifier = createNotifier(options.notifySocket, log);
  const ending = new PoolEnding(log, options.endsAfter);
  const pool = createPool(options, ending.kill, onEvent);
  const background: Promise<unknown>[] = [];
  const end = (): Promise<void> => ending.end(() => Promise.all([pool.close(), ...background]));
  await using _end = { [Symbol.asyncDispose]: end };
  const wanted = new Map(settings.shapes.map(({ config, number }) => [identityDigest(config), number]));
  const found = await findIdleVms({ runDir, wanted, log, signal, kill: ending.kill });
  background.push(found.ended);
  for (const vm of found.wanted) {
    assert(pool.adopt(vm), "an empty slot for every vm that was found");
    log.info("idle vm adopted", { vm: vm.facts.vmId });
    onEvent({ kind: "adopted", vmId: vm.facts.vmId });
  }
  const adopted = found.wanted.length;
  const quit = (): void => stop("quit");
  const following = followSettings(options, pool, onEvent, () => stop("replaced"));
  await using _following = following;
  const service = cacheService({ pool, runDir, startedAtMs, adopted, quit, configError: following.error });
  await using grpc = createGrpcServer([service], { log });
  const metrics = poolMetrics({ pool, observer, runDir, startedAtMs, configError: following.error });
  await using _metrics = await serveMetrics(options, metrics);
  entrance.open((stream) => grpc.accept(stream));
  log.info("pool serves", {
    endpoint,
    shapes: pool.shapes.map(({ name, number }) => `${number} of ${name}`).join(", "),
    adopted,
  });
  onEvent({ kind: "listening", endpoint });
  using watchdog = watch(options, notifier);
  background.push(collectOrphans(runDir, log).catch((thrown: unknown) => logFailure(log, "collect orphans", thrown)));
  pool.start();
  const reason = await stopped;
  watchdog?.[Symbol.dispose]();
  signal.removeEventListener("abort", onAbort);
  log.info("pool ends", { reason, slots: pool.slots.length });
  onEvent({ kind: "stopping", reason });
  listener.close();
  await Promise.all([end(), grpc.shutdown(POOL_SHUTDOWN_GRACE_MS)]);
  return reason;
}

interface Following extends AsyncDisposable {
  /** Why the settings that are there are not those in use. */
  readonly error: () => string | undefined;
}

function followSettings(
  { follow, log }: PoolServerOptions,
  pool: VmPool,
  onEvent: (event: PoolEvent) => void,
  end: () => void,
): Following {
  let refusal: HearthError | undefined;
  const following = follow?.({
    changed: (settings) => {
      refusal = undefined;
      pool.apply(settings);
      const shapes = pool.shapes.map(({ name, number }) => `${number} of ${name}`).join(", ");
      log.info("settings changed", { shapes });
      onEvent({ kind: "configured" });
    },
    refused: (error) => {
      refusal = error;
      log.error("settings refused, those before still hold", { error: describeError(error) });
      onEvent({ kind: "config-refused", error });
    },
    replaced: () => {
      log.warn("this program was replaced, the new one takes over");
      end();
    },
  });
  return {
    error: () => (refusal === undefined ? undefined : describeError(refusal)),
    [Symbol.asyncDispose]: async () => {
      await following?.[Symbol.asyncDispose]();
    },
  };
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

/** A place that cannot be had is an error in the log and no reason not to serve VMs. */
async function serveMetrics(
  { metrics = { endpoint: "", port: 0 }, log }: PoolServerOptions,
  text: () => Promise<string>,
): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack();
  const page = { path: "/metrics", contentType: PROMETHEUS_CONTENT_TYPE, text };
  try {
    if (metrics.endpoint !== "") stack.use(await servePageUnix(metrics.endpoint, page));
    if (metrics.port !== 0) stack.use(servePageLoopback(metrics.port, page));
  } catch (thrown) {
    logFailure(log, "serve metrics", thrown);
  }
  return stack;
}

function createPool(options: PoolServerOptions, kill: AbortSignal, onEvent: (event: PoolEvent) => void): VmPool {
  const { runDir, settings, logLevel, log, sandboxArgv } = options;
  const argv = sandboxArgv === undefined ? {} : { argv: sandboxArgv };
  const makers = new Map<string, TemplateMaker>();
  const makerOf = (templateDir: string): TemplateMaker => {
    const maker = makers.get(templateDir) ?? new TemplateMaker({ templateDir, runDir, logLevel, log, kill, ...argv });
    makers.set(templateDir, maker);
    return maker;
  };
  const pool: VmPool = new VmPool({
    settings,
    runDir,
    log,
    base: (onStep) => {
      const { templateDir, leaseMs } = pool.settings;
      const maker = templateDir === undefined ? undefined : makerOf(templateDir);
      return createPoolBase(maker, { runDir, leaseMs, logLevel, log, kill, onStep, ...argv });
    },
    kill,
    onEvent,
    ...options.times,
  });
  return pool;
}

function logFailure(log: Log, what: string, thrown: unknown): void {
  log.error(what, { error: describeError(thrown) });
}
