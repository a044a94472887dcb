/** A pool server of a test's own: started in the foreground, waited for until its VMs are ready, stopped in the end. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CacheService, type GrpcVM } from "../../src/gen/cache_pb.ts";
import { vmPaths } from "../../src/paths.ts";
import { createGrpcClient, GrpcClient } from "../../src/rpc/grpc.ts";
import { type ProcessIdentity, processStat } from "../../src/sys/process-identity.ts";
import { readVmRecord, type VmRecord } from "../../src/vm/vm-record.ts";
import { type PoolStatus, vmCacheStatus } from "../../src/vmcache/control.ts";
import { eventually } from "./eventually.ts";
import type { Hearth } from "./hearth.ts";
import { PATH } from "./program.ts";

/** Emulated, two VMs boot at once in about 10 s on two cores. */
const READY_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 20_000;
/** How often the records, which are files, are looked at. */
const LOOK_INTERVAL_MS = 50;

export interface Pool extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when so many VMs are idle. Fails with the server's log when it ends first or takes too long. */
  idle(count: number): Promise<void>;
  /** What the server wrote to its standard error. */
  log(): string;
  /** Its exit status, once it ends by itself. */
  ended(): Promise<number>;
  status(): Promise<PoolStatus>;
  /** The status once it is as wanted. Fails with the server's log when that takes too long. */
  until(what: string, wanted: (status: PoolStatus) => boolean): Promise<PoolStatus>;
  /** Takes a VM as any gRPC client may, and never adopts it. */
  claim(): Promise<GrpcVM>;
  /** Sends it a signal and returns its exit status. */
  stop(signal?: NodeJS.Signals): Promise<number>;
}

/** The VMs of a run directory that have a record. */
export function vmRecords(runDir: string): VmRecord[] {
  const dir = join(runDir, "vm");
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .map((id) => readVmRecord(vmPaths(runDir, id).record))
    .filter((record) => record !== undefined);
}

/** QEMU or virtiofsd of a VM, by the beginning of the process's name. */
export function processOf(record: VmRecord | undefined, name: "qemu" | "virtiofsd"): ProcessIdentity {
  const found = record?.processes.find(({ pid }) => processStat(pid)?.command.startsWith(name));
  if (found === undefined) throw new Error(`no ${name} of VM ${record?.vmId}`);
  return found;
}

/** `number` undefined: as the configuration says. */
export function startPool(hearth: Hearth, number: number | undefined, args: readonly string[] = []): Pool {
  const size = number === undefined ? [] : ["--number", `${number}`];
  const child = Bun.spawn([hearth.executable, "vmcache", "serve", ...size, ...args], {
    env: { PATH, ...hearth.env },
    cwd: "/",
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  let log = "";
  const read = async (): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) log += decoder.decode(chunk, { stream: true });
  };
  const drained = read();
  const stop = async (signal: NodeJS.Signals = "SIGTERM"): Promise<number> => {
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
    const status = await child.exited;
    clearTimeout(timer);
    return status;
  };
  return {
    pid: child.pid,
    log: () => log,
    stop,
    ended: () => child.exited,
    status: () => vmCacheStatus(hearth.endpoint),
    claim: async () => {
      await using client = new GrpcClient(hearth.endpoint);
      return await createGrpcClient(CacheService, client).getBaseVM({}, { timeoutMs: READY_TIMEOUT_MS });
    },
    until: async (what, wanted) => {
      let last: PoolStatus | undefined;
      const look = async (): Promise<PoolStatus | undefined> => {
        if (child.exitCode !== null) throw new Error(`the pool server ended with status ${child.exitCode}`);
        last = await vmCacheStatus(hearth.endpoint).catch(() => undefined);
        return last !== undefined && wanted(last) ? last : undefined;
      };
      return await eventually(what, look, READY_TIMEOUT_MS).catch((thrown: unknown) => {
        throw new Error(`${thrown}\n${JSON.stringify(last, null, 2)}\n${log}`);
      });
    },
    idle: async (count) => {
      const deadline = performance.now() + READY_TIMEOUT_MS;
      while (vmRecords(hearth.runDir).filter(({ state }) => state === "idle").length < count) {
        if (child.exitCode !== null) {
          await drained;
          throw new Error(`the pool server ended with status ${child.exitCode}\n${log}`);
        }
        if (performance.now() > deadline) throw new Error(`the pool has not ${count} idle VMs in time\n${log}`);
        await Bun.sleep(LOOK_INTERVAL_MS);
      }
    },
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}
