/** `hearth sandbox`: reads its launch from standard input, boots, tells its spawner on descriptor 3, and serves until the VM ends. */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import * as v from "valibot";
import { describeError, firstError, HearthError, isErrnoException, toHearthError } from "../errors.ts";
import type { SandboxLaunch, SandboxReady } from "../factory/base-factory.ts";
import { FILE_STEP_TIMEOUT_MS, QMP_CALL_TIMEOUT_MS } from "../limits.ts";
import { createLog, type Log, silentLog } from "../log.ts";
import { vmPaths } from "../paths.ts";
import { registerSandbox } from "../rpc/protocols.ts";
import { serveTtrpc } from "../rpc/ttrpc/server.ts";
import { writeJsonAtomic } from "../sys/atomic-file.ts";
import { ownIdentity } from "../sys/process-identity.ts";
import { listenUnix, type UnixListener } from "../sys/unix-socket.ts";
import { reserveCid } from "../sys/vsock.ts";
import type { Vm } from "../vm/vm.ts";
import { type BootRequest, bootVm, makeVmDirectory } from "./boot.ts";
import { captureVm } from "./capture.ts";
import { cloneVm } from "./clone.ts";
import { SandboxLaunchSchema } from "./launch-schema.ts";
import { vmRecordOf } from "./record.ts";
import { rehearse } from "./rehearsal.ts";
import { Sandbox } from "./sandbox.ts";
import { sandboxService } from "./service.ts";
import { createSteps, type Steps, type StepsOptions, type StepTime, stretchOf } from "./steps.ts";

const READY_FD = 3;
/** An idle VM that no server ever heard of would stay for ever; a leased one has its lease. */
const SPAWNER_GONE = "the pool server that started it has gone";

/** Runs until the sandbox has ended; resolves with the process's exit status. */
export async function sandboxMain(): Promise<number> {
  const report = new SpawnerReport();
  let launch: SandboxLaunch;
  try {
    launch = parseLaunch(readFileSync(0, "utf8"));
  } catch (error) {
    report.error(error);
    return 1;
  }
  try {
    return await serveSandbox(launch, report);
  } catch (error) {
    report.error(error);
    return 1;
  }
}

async function serveSandbox(launch: SandboxLaunch, report: SpawnerReport): Promise<number> {
  const startedAt = performance.now();
  const times: StepTime[] = [];
  const paths = vmPaths(launch.runDir, launch.vmId);
  await using stack = new AsyncDisposableStack();
  const foundations = stack.use(new AsyncDisposableStack());
  let log: Log = silentLog;
  const boot = new AbortController();
  let endBy = (signal: string): void => boot.abort(new HearthError("cancelled", `ended by ${signal}`));
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => endBy(signal));
  const stepsOptions: StepsOptions = {
    failAt: launch.failAt,
    signal: boot.signal,
    onStart: (step) => {
      report.line({ step });
      if (launch.mode !== "leased" && report.isSpawnerGone) throw new HearthError("cancelled", SPAWNER_GONE);
    },
    onStep: (time) => {
      log.debug("step done", { step: time.step, durationUs: time.durationUs });
      times.push(time);
    },
  };
  const steps = createSteps(stepsOptions);
  const { promise: ended, resolve: onEnded } = Promise.withResolvers<string>();
  await steps.run("make-directory", FILE_STEP_TIMEOUT_MS, async () => {
    makeVmDirectory(paths, foundations);
    log = openSandboxLog(launch, paths.sandboxLog, foundations);
  });
  const reservedCid = launch.config.transport === "vsock" ? foundations.use(reserveCid()) : undefined;
  const request = { vmId: launch.vmId, paths, config: launch.config, reservedCid, foundations };
  if (launch.mode === "capture") return await capture(launch, request, steps, log, report);
  const vm = stack.use(await makeVm(launch, request, steps, log));
  const onChange = (changed: Sandbox) => writeJsonAtomic(vm.paths.record, vmRecordOf(changed));
  const sandbox = new Sandbox({
    vm,
    steps: createSteps({ ...stepsOptions, stretch: stretchOf(launch.config.bootTimeoutMs) }),
    log,
    onEnded,
    onChange: (changed) => quietly(log, () => onChange(changed)),
  });
  stack.defer(() => sandbox.end("sandbox process failed"));
  endBy = (signal) => void sandbox.end(signal);
  await steps.run("write-record", FILE_STEP_TIMEOUT_MS, async () => onChange(sandbox));
  const listener = await steps.run("listen", FILE_STEP_TIMEOUT_MS, () =>
    listen(sandbox, vm.paths.sandboxSocket, times, log),
  );
  stack.use(listener);
  if (launch.mode === "leased") sandbox.beginLeased(launch.token, launch.leaseMs);
  const bootMs = Math.round(performance.now() - startedAt);
  log.info("vm ready", { bootMs, qemu: vm.hypervisor.process.pid, mode: launch.mode });
  report.ready({
    sandbox: vm.owner,
    socket: vm.paths.sandboxSocket,
    qemuPid: vm.hypervisor.process.pid,
    vcpus: vm.hypervisor.vcpus,
    memoryMib: vm.hypervisor.memoryMib,
    bootMs,
  });
  if (launch.mode === "idle") {
    if (report.isSpawnerGone) void sandbox.end(SPAWNER_GONE);
    else sandbox.settle();
  }
  log.info("sandbox ended", { reason: await ended });
  await sandbox.farewell();
  return 0;
}

/** Booted and, to be put aside, rehearsed; or a clone, whose template was. An idle one is paused. */
async function makeVm(launch: SandboxLaunch, request: BootRequest, steps: Steps, log: Log): Promise<Vm> {
  const { mode, template, config } = launch;
  await using stack = new AsyncDisposableStack();
  const vm = stack.use(
    template === undefined ? await bootVm(request, steps, log) : await cloneVm(request, template, steps, log),
  );
  if (mode === "idle") {
    if (!vm.isClone) await steps.run("rehearse", config.bootTimeoutMs, (signal) => rehearse(vm.agent, signal));
    await steps.run("pause", QMP_CALL_TIMEOUT_MS, (signal) => vm.hypervisor.pause(signal));
  }
  stack.move();
  return vm;
}

/** The files are the spawner's when it has the report; should it have gone, they are what an interrupted init leaves. */
async function capture(
  { template, config }: SandboxLaunch,
  request: BootRequest,
  steps: Steps,
  log: Log,
  report: SpawnerReport,
): Promise<number> {
  if (template === undefined) throw new HearthError("invalid-argument", "read sandbox launch: capture to which files?");
  const startedAt = performance.now();
  const qemuPid = await captureVm(request, template, steps, log);
  report.ready({
    sandbox: ownIdentity(),
    socket: request.paths.sandboxSocket,
    qemuPid,
    vcpus: config.vcpus,
    memoryMib: config.memoryMib,
    bootMs: Math.round(performance.now() - startedAt),
  });
  return 0;
}

/** The log is a file of the VM's directory: nobody reads our standard error. */
function openSandboxLog(launch: SandboxLaunch, path: string, foundations: AsyncDisposableStack): Log {
  const fd = openSync(path, "a", 0o600);
  foundations.defer(() => closeSync(fd));
  return createLog({ level: launch.logLevel, format: "json", fd }, { vm: launch.vmId });
}

async function listen(sandbox: Sandbox, path: string, times: StepTime[], log: Log): Promise<UnixListener> {
  const handlers = sandboxService(sandbox, () => times.splice(0).map(({ step, durationUs }) => ({ step, durationUs })));
  const services = [registerSandbox(handlers)];
  return await listenUnix(path, (stream) => {
    const connection = serveTtrpc(stream, services, { log });
    void connection.closed
      .then(() => sandbox.connectionClosed(connection))
      .catch((error: unknown) => {
        log.error("clean up after client", { error: describeError(error) });
      });
  });
}

function quietly(log: Log, work: () => void): void {
  try {
    work();
  } catch (error) {
    log.error("write record", { error: describeError(error) });
  }
}

function parseLaunch(text: string): SandboxLaunch {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new HearthError("invalid-argument", "read sandbox launch from standard input: not JSON", { cause });
  }
  const result = v.safeParse(SandboxLaunchSchema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new HearthError("invalid-argument", `read sandbox launch: ${v.getDotPath(issue) ?? ""} ${issue.message}`);
}

/** JSON lines for the spawner. It may be gone: then nobody needs them. */
class SpawnerReport {
  #open = true;
  #spawnerGone = false;

  /** It ended before it could read everything that it was told. */
  get isSpawnerGone(): boolean {
    return this.#spawnerGone;
  }

  line(value: { readonly step: string }): void {
    this.#write(value);
  }

  ready(ready: SandboxReady): void {
    this.#write({ ready });
    this.#close();
  }

  error(thrown: unknown): void {
    const error = toHearthError(firstError(thrown), "start sandbox");
    this.#write({ error: { code: error.code, message: describeError(thrown), hint: error.hint } });
    this.#close();
  }

  #write(value: object): void {
    if (!this.#open) return;
    try {
      writeSync(READY_FD, `${JSON.stringify(value)}\n`);
    } catch (thrown) {
      this.#spawnerGone = isErrnoException(thrown) && thrown.code === "EPIPE";
      this.#close();
    }
  }

  #close(): void {
    if (!this.#open) return;
    this.#open = false;
    try {
      closeSync(READY_FD);
    } catch {
      // Started by hand without descriptor 3.
    }
  }
}
