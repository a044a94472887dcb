/** Brings a QEMU under our control: starts one that boots or restores a VM, or connects to one that is running. */
import { HearthError, toHearthError } from "../../errors.ts";
import { QEMU_END_WAIT_MS } from "../../limits.ts";
import { type Log, silentLog } from "../../log.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import { sleep } from "../../util/wait.ts";
import type { BootOptions, HypervisorEnd } from "../interface.ts";
import { restoreVm } from "./migration.ts";
import { Qemu } from "./qemu.ts";
import { describeEnd, foundQemu, type LogPaths, type QemuProcess, startQemu } from "./qemu-process.ts";
import { QmpClient } from "./qmp/client.ts";
import type { MachineType } from "./slots.ts";
import { checkQemuVersion, probeQemuVersion } from "./version.ts";

export interface LaunchContext {
  readonly log?: Log;
  readonly signal?: AbortSignal;
}

/**
 * The guest is booting when this resolves, or, with `restore`, the VM is paused where it was saved. The caller owns the
 * result; nothing but logs is left when it fails. "not-found" without QEMU, "failed-precondition" when it is too old.
 */
export async function launchQemu(options: BootOptions, context: LaunchContext = {}): Promise<Qemu> {
  const log = context.log ?? silentLog;
  await using undo = new AsyncDisposableStack();
  const process = undo.use(await startQemu(options));
  try {
    const qmp = undo.use(await QmpClient.connect(options.qmpSocket, { ...context, log }));
    warnOfVersion(qmp, options.qemuPath, log);
    const { machine, sharedMemory, restore } = options;
    // What was plugged into the saved VM is not asked for: it would have to be an option here.
    const [qemu] = await Promise.all([
      Qemu.attach({ process, qmp, machine, sharedMemory, log }),
      restore === undefined ? undefined : restoreVm(qmp, restore, context.signal),
    ]);
    log.debug("qemu started", { pid: process.identity.pid });
    undo.move();
    return qemu;
  } catch (thrown) {
    throw await explainFailure(thrown, process, options, context.signal);
  }
}

export interface AdoptOptions extends LogPaths {
  readonly process: ProcessIdentity;
  readonly qmpSocket: string;
  readonly machine: MachineType;
  readonly sharedMemory: boolean;
}

/** Takes over a QEMU that lives on after its owner's end: QMP accepts a new connection once the old one is gone. */
export async function adoptQemu(options: AdoptOptions, context: LaunchContext = {}): Promise<Qemu> {
  if (!isAlive(options.process)) {
    throw new HearthError("not-found", `adopt qemu ${options.process.pid}: no such process`);
  }
  const log = context.log ?? silentLog;
  await using undo = new AsyncDisposableStack();
  const qmp = undo.use(await QmpClient.connect(options.qmpSocket, { ...context, log }));
  const process = foundQemu(options.process, options);
  const { machine, sharedMemory } = options;
  const qemu = await Qemu.attach({ process, qmp, machine, sharedMemory, log });
  await qemu.refresh(context.signal);
  undo.move();
  return qemu;
}

function warnOfVersion(qmp: QmpClient, qemuPath: string, log: Log): void {
  const warning = checkQemuVersion(qmp.version, qemuPath);
  if (warning !== undefined) log.warn(warning);
}

/** A QEMU that ends by itself knows better than our broken connection why the start failed. */
async function explainFailure(
  thrown: unknown,
  process: QemuProcess,
  options: BootOptions,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  const error = toHearthError(thrown, "start qemu");
  if (error.code !== "unavailable") return thrown;
  const end = await Promise.race([process.ended, sleep(QEMU_END_WAIT_MS).then(() => undefined)]);
  if (end === undefined) return thrown;
  return (await tooOld(options.qemuPath, signal)) ?? startError(options.qemuPath, end, error);
}

/** A version that does not know our options ends before it has told its version over QMP. */
async function tooOld(qemuPath: string, signal: AbortSignal | undefined): Promise<HearthError | undefined> {
  try {
    checkQemuVersion(await probeQemuVersion(qemuPath, signal), qemuPath);
    return undefined;
  } catch (thrown) {
    return thrown instanceof HearthError && thrown.code === "failed-precondition" ? thrown : undefined;
  }
}

function startError(qemuPath: string, end: HypervisorEnd, cause: HearthError): HearthError {
  return new HearthError("internal", `start qemu ${qemuPath}: ${describeEnd(end)}`, {
    cause,
    facts: { exitCode: end.exitCode ?? undefined, signal: end.signal ?? undefined },
  });
}
