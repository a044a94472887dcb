/** A pool server over scripted sandbox processes, in this process or in one of its own, whose events can be waited for. */
import { join } from "node:path";
import { createGrpcCacheFactory } from "../../src/factory/grpc-cache.ts";
import type { PoolSettings } from "../../src/factory/vm-pool.ts";
import { silentLog } from "../../src/log.ts";
import { pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { type ChildProcess, spawnProcess } from "../../src/sys/process.ts";
import type { VmConfig, VmSize } from "../../src/vm/vm-config.ts";
import { type PoolStatus, vmCacheStatus } from "../../src/vmcache/control.ts";
import type { PoolEvent } from "../../src/vmcache/pool-event.ts";
import { type PoolEnd, type PoolServerOptions, serveVmCache } from "../../src/vmcache/server.ts";
import type { PoolServerArguments } from "../fixtures/pool-server.ts";
import { type SandboxFixture, VM_CONFIG } from "./sandbox-fixture.ts";

/** What a test may want otherwise. */
export interface PoolChanges extends Partial<Omit<PoolServerOptions, "settings">> {
  /** VMs of `vmConfig` kept ready; without meaning when `settings` has shapes. */
  readonly number?: number;
  readonly vmConfig?: VmConfig;
  readonly settings?: Partial<PoolSettings>;
}

/** One shape of two VMs, and back-offs that a test can wait for. */
export function testSettings({ number = 2, vmConfig = VM_CONFIG, settings = {} }: PoolChanges = {}): PoolSettings {
  return {
    shapes: [{ config: vmConfig, number }],
    leaseMs: 20_000,
    bootsAtOnce: 2,
    memoryMaxMib: 0,
    backoff: { minMs: 5, maxMs: 40 },
    ageMaxMs: 0,
    checkIntervalMs: 120_000,
    queueLengthMax: 256,
    ...settings,
  };
}

export function poolOptions(fixture: SandboxFixture, changes: PoolChanges = {}): PoolServerArguments {
  const { number: _number, vmConfig: _vmConfig, settings: _settings, ...options } = changes;
  return {
    endpoint: `${fixture.runDir}/cache.sock`,
    runDir: fixture.runDir,
    logLevel: "info",
    settings: testSettings(changes),
    sandboxArgv: fixture.argv,
    times: { stableMs: 0 },
    ...options,
  };
}

/** Events seen so far, and promises for those to come. */
export class EventLog {
  readonly events: PoolEvent[] = [];
  readonly #looks = new Set<() => void>();

  readonly add = (event: PoolEvent): void => {
    this.events.push(event);
    for (const look of this.#looks) look();
  };

  count(kind: PoolEvent["kind"]): number {
    return this.events.filter((event) => event.kind === kind).length;
  }

  /** Resolves when there have been `count` events of the kind. */
  seen(kind: PoolEvent["kind"], count = 1): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.count(kind) < count) return;
        this.#looks.delete(look);
        resolve();
      };
      this.#looks.add(look);
      look();
    });
  }
}

export class PoolInProcess extends EventLog {
  readonly options: PoolServerOptions;
  readonly served: Promise<PoolEnd>;
  readonly #stop = new AbortController();

  constructor(fixture: SandboxFixture, options: PoolChanges = {}) {
    super();
    this.options = {
      ...poolOptions(fixture, options),
      log: options.log ?? silentLog,
      signal: this.#stop.signal,
      onEvent: this.add,
    };
    this.served = serveVmCache(this.options);
    // A test that expects a failure awaits `served` itself.
    this.served.catch(() => {});
  }

  stop(): Promise<PoolEnd> {
    this.#stop.abort();
    return this.served;
  }

  status(): Promise<PoolStatus> {
    return vmCacheStatus(this.options.endpoint);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.served.catch(() => {});
  }
}

/** A client with a generous deadline. */
export function poolClient(endpoint: string, timeoutMs = 10_000, need?: VmSize) {
  return createGrpcCacheFactory({ endpoint, timeoutMs, need });
}

/** The server as a child process; its events come over its standard output. */
export class PoolProcess extends EventLog {
  readonly child: ChildProcess;
  readonly endpoint: string;
  readonly #reader: FdReader;

  constructor(fixture: SandboxFixture, options: PoolChanges = {}) {
    super();
    const all = poolOptions(fixture, options);
    this.endpoint = all.endpoint;
    const out = pipe({ nonBlockingRead: true });
    const program = join(import.meta.dir, "..", "fixtures", "pool-server.ts");
    this.child = spawnProcess({
      argv: [process.execPath, program, JSON.stringify(all)],
      stdio: ["ignore", out.writeEnd.fd, "ignore"],
    });
    out.writeEnd.close();
    this.#reader = new FdReader(out.readEnd);
    this.#follow().catch(() => {});
  }

  async #follow(): Promise<void> {
    let text = "";
    for (let chunk = await this.#reader.read(); chunk !== null; chunk = await this.#reader.read()) {
      text += new TextDecoder().decode(chunk);
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
        const event: unknown = JSON.parse(text.slice(0, end));
        text = text.slice(end + 1);
        this.add((typeof event === "string" ? { kind: event } : event) as PoolEvent);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill(9);
    await this.child.exited;
    this.#reader.close();
  }
}
