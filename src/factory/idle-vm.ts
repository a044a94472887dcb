/** An idle VM as the pool holds it: a connection to its sandbox process, by which its death is noticed at once. */
import { describeError, HearthError, toHearthError } from "../errors.ts";
import { VmState } from "../gen/sandbox_table.ts";
import { KILL_GRACE_MS, ORPHAN_EXIT_TIMEOUT_MS, SANDBOX_CONNECT_TIMEOUT_MS, VM_DESTROY_TIMEOUT_MS } from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import { vmPaths } from "../paths.ts";
import { type SandboxCalls, sandboxCalls } from "../rpc/protocols.ts";
import { TtrpcClient } from "../rpc/ttrpc/client.ts";
import { isAlive, type ProcessIdentity, processExit, signalProcess } from "../sys/process-identity.ts";
import { SIGKILL, SIGTERM } from "../sys/signals.ts";
import { connectUnix } from "../sys/unix-socket.ts";
import { collectVm } from "../vm/collect.ts";
import { readVmRecord } from "../vm/vm-record.ts";

/** What the sandbox process answered about its VM. */
export interface IdleVmFacts {
  readonly vmId: string;
  readonly sandbox: ProcessIdentity;
  readonly socket: string;
  readonly qemuPid: number;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Hex digest. */
  readonly identity: string;
  readonly readyAtMs: number;
}

export interface VmLocation {
  readonly runDir: string;
  readonly vmId: string;
}

/**
 * Connects to the sandbox process of an idle VM. Fails with "failed-precondition" when the VM is not idle, as leased and
 * adopted ones are not; nothing is done to the VM then, nor after any other failure.
 */
export async function connectIdleVm(location: VmLocation, log: Log = silentLog, signal?: AbortSignal): Promise<IdleVm> {
  const { runDir, vmId } = location;
  const paths = vmPaths(runDir, vmId);
  const record = readVmRecord(paths.record);
  if (record === undefined) throw new HearthError("not-found", `connect VM ${vmId}: it has no record`);
  const timeoutMs = SANDBOX_CONNECT_TIMEOUT_MS;
  const client = new TtrpcClient(await connectUnix(paths.sandboxSocket, { timeoutMs, signal }));
  try {
    const sandbox = sandboxCalls(client);
    const info = await sandbox.info({}, { timeoutMs, signal });
    if (info.vmId !== vmId || Number(info.sandboxPid) !== record.sandbox.pid) {
      throw new HearthError("internal", `connect VM ${vmId}: its socket is served by somebody else`);
    }
    if (info.state !== VmState.IDLE) {
      throw new HearthError("failed-precondition", `connect VM ${vmId}: it is not idle`, {
        facts: { state: info.state },
      });
    }
    const facts: IdleVmFacts = {
      vmId,
      sandbox: record.sandbox,
      socket: paths.sandboxSocket,
      qemuPid: Number(info.qemuPid),
      vcpus: info.vcpus,
      memoryMib: info.memoryMib,
      identity: info.identity,
      readyAtMs: Number(info.readyAtMs),
    };
    return new IdleVm(runDir, facts, client, sandbox, log.with({ vm: vmId }));
  } catch (thrown) {
    client.close();
    throw toHearthError(thrown, `connect VM ${vmId}`);
  }
}

export interface LeaseRequest {
  readonly token: string;
  readonly leaseMs: number;
  /** Resume the VM and ask the guest's agent first; else QEMU alone is asked. */
  readonly agent: boolean;
}

export interface VmLease {
  readonly token: string;
  /** The VM's record as its sandbox process wrote it, JSON. */
  readonly recordJson: Uint8Array;
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** Made by connectIdleVm. The holder is the only one who may lease or destroy the VM. */
export class IdleVm {
  readonly facts: IdleVmFacts;
  /** Resolves with the reason when the sandbox process has gone, or after `release`; never rejects. */
  readonly lost: Promise<HearthError>;
  readonly #runDir: string;
  readonly #client: TtrpcClient;
  readonly #sandbox: SandboxCalls;
  readonly #log: Log;
  #destroyed: Promise<void> | undefined;
  #provenAtMs = Number.NEGATIVE_INFINITY;

  constructor(runDir: string, facts: IdleVmFacts, client: TtrpcClient, sandbox: SandboxCalls, log: Log) {
    this.facts = facts;
    this.#runDir = runDir;
    this.#client = client;
    this.#sandbox = sandbox;
    this.#log = log;
    this.lost = client.closed;
  }

  /** Milliseconds since its agent last answered; infinite when it is not known to have. */
  get provenAgoMs(): number {
    return performance.now() - this.#provenAtMs;
  }

  /** Its agent has just answered. */
  proven(): void {
    this.#provenAtMs = performance.now();
  }

  /** Something happened since that it may not have survived. */
  distrust(): void {
    this.#provenAtMs = Number.NEGATIVE_INFINITY;
  }

  /** QEMU answers, and the guest's agent too. */
  async check(timeoutMs: number): Promise<void> {
    await this.#sandbox.check({ agent: true }, { timeoutMs });
    this.proven();
  }

  /** Gives the VM away to whoever presents the token within `leaseMs`. After a failure the VM is fit only to be destroyed. */
  async lease(request: LeaseRequest, timeoutMs: number): Promise<VmLease> {
    const { recordJson, vcpus, memoryMib } = await this.#sandbox.lease({ ...request }, { timeoutMs });
    return { token: request.token, recordJson, vcpus, memoryMib };
  }

  /** Lets go of the VM without ending it: it belongs to the holder of the lease now. */
  release(): void {
    this.#client.close();
  }

  /**
   * Ends the VM and its sandbox process, whatever state they are in, and what they leave behind; without patience once
   * `kill` aborts. Idempotent; never rejects.
   */
  destroy(kill?: AbortSignal): Promise<void> {
    this.#destroyed ??= this.#destroy(kill).catch((thrown: unknown) => {
      this.#log.error("destroy pooled vm", { error: describeError(thrown) });
    });
    return this.#destroyed;
  }

  async #destroy(kill: AbortSignal | undefined): Promise<void> {
    const { vmId, sandbox } = this.facts;
    let asked = true;
    try {
      await this.#sandbox.destroy({}, { timeoutMs: VM_DESTROY_TIMEOUT_MS, signal: kill });
    } catch (thrown) {
      asked = false;
      this.#log.debug("destroy not answered", { error: describeError(thrown) });
    }
    this.#client.close();
    await endSandboxProcess({ runDir: this.#runDir, vmId }, sandbox, this.#log, { asked, kill });
  }
}

export interface EndOptions {
  /** It was asked to end, and has said that it will. Default false. */
  readonly asked?: boolean;
  /** Once it aborts, nothing is waited for any more but the kernel. */
  readonly kill?: AbortSignal | undefined;
}

/**
 * Ends a sandbox process that is not wanted any more: when it was asked waits for its end, then asks by TERM, then
 * kills, and collects what it leaves behind. Fails when the process survives or something of its VM stays.
 */
export async function endSandboxProcess(
  location: VmLocation,
  sandbox: ProcessIdentity,
  log: Log,
  { asked = false, kill }: EndOptions = {},
): Promise<void> {
  for (const [signal, waitMs] of [
    [0, asked ? KILL_GRACE_MS : 0],
    [SIGTERM, VM_DESTROY_TIMEOUT_MS],
    [SIGKILL, ORPHAN_EXIT_TIMEOUT_MS],
  ] as const) {
    const isLast = signal === SIGKILL;
    if (waitMs === 0 || (kill?.aborted === true && !isLast)) continue;
    if (signal !== 0) signalProcess(sandbox, signal);
    const timeout = AbortSignal.timeout(waitMs);
    try {
      await processExit(sandbox, kill === undefined || isLast ? timeout : AbortSignal.any([timeout, kill]));
      await collectVm(location.runDir, location.vmId, log);
      return;
    } catch (thrown) {
      if (isAlive(sandbox)) log.warn("sandbox process does not end", { pid: sandbox.pid, waitMs });
      else throw thrown;
    }
  }
  throw new HearthError("internal", `end sandbox process ${sandbox.pid}: it survives SIGKILL`);
}
