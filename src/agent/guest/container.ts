/** One container in the guest: its life from crun's `create` to its removal, and the processes that clients started in it. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeError, HearthError, SystemError, toHearthError } from "../../errors.ts";
import {
  AGENT_REMOVE_TIMEOUT_S,
  CRUN_TIMEOUT_MS,
  EXEC_PROCESSES_MAX,
  FINISHED_PROCESSES_MAX,
  HOOK_STATE_BYTES,
} from "../../limits.ts";
import { stringifyOciJson } from "../../oci/json.ts";
import { type GuestBundlePaths, guestBundlePaths } from "../../paths.ts";
import type { FdUse } from "../../sys/carried-fd.ts";
import { ConsoleListener } from "../../sys/scm.ts";
import { SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM } from "../../sys/signals.ts";
import { withDeadline } from "../../util/wait.ts";
import type { AgentContext } from "./agent-context.ts";
import { cgroupPids, freezeCgroup, killCgroup, readCgroupFile, removeCgroup } from "./cgroup.ts";
import { ContainerProcess } from "./container-process.ts";
import { CRUN_COMMAND, type CrunCall, type CrunStreams } from "./crun.ts";
import { isBeginOfRefusal, refusedExec, refusedProgram } from "./exec-failure.ts";
import { withHome } from "./home.ts";
import { holdHooks } from "./hook-states.ts";
import type { JsonRecord } from "./json-record.ts";
import { type OciConfig, withProcessDefaults } from "./oci-view.ts";
import { openPreservedStreams } from "./preserved-streams.ts";
import { type ProcessAttributes, processAttributes } from "./process-attributes.ts";
import { pidsInNamespaceOf, signalPid } from "./processes.ts";
import { untilExecuted } from "./program-start.ts";
import { emptyHookFiles, startHookFailure } from "./start-hooks.ts";
import { openStdioPipes, type ProcessStdio, terminalStdio } from "./stdio.ts";
import { applySysctls } from "./sysctl.ts";
import type { TimeNamespace } from "./time-namespace.ts";
import { completeResources } from "./update-resources.ts";
import { mountSysfs } from "./user-namespace.ts";

type Status = "created" | "running" | "removing";

interface NewProcess {
  readonly terminal: boolean;
  readonly program: string | undefined;
  /** What it can do with its descriptors 3, 4, … */
  readonly descriptors: readonly FdUse[];
}

export class Container {
  readonly id: string;
  readonly config: OciConfig;
  /** Directory of its cgroup; undefined when the agent runs without cgroups. */
  readonly cgroupDir: string | undefined;
  readonly bundle: GuestBundlePaths;
  readonly #context: AgentContext;
  readonly #processes = new Map<string, ContainerProcess>();
  /** Exec processes whose crun is still at work, by id. */
  readonly #starting = new Map<string, Promise<ContainerProcess>>();
  #status: Status = "created";

  private constructor(context: AgentContext, id: string, config: OciConfig, bundle: GuestBundlePaths) {
    this.#context = context;
    this.id = id;
    this.config = config;
    this.bundle = bundle;
    this.cgroupDir = context.cgroupRoot === undefined ? undefined : join(context.cgroupRoot, config.cgroupPath);
  }

  /** Makes the bundle and has crun create the container; when that fails nothing is left. */
  static async create(
    context: AgentContext,
    id: string,
    config: OciConfig,
    descriptors: readonly FdUse[],
  ): Promise<Container> {
    const bundle = guestBundlePaths(context.paths, id);
    const container = new Container(context, id, config, bundle);
    try {
      mkdirSync(bundle.dir, { recursive: true, mode: 0o700 });
      writeFileSync(bundle.config, config.json, { mode: 0o600 });
      applySysctls(config.networkSysctls);
      if (config.bindsSysfs) mountSysfs(context.paths.sysfs);
      const { terminal, program, startHooks } = config;
      using _hooks = container.#holdHooks(config.createHooks, undefined);
      const init = await container.#spawn(id, { terminal, program, descriptors }, (call, streams) =>
        context.crun.create(call, streams),
      );
      container.#processes.set(id, init);
      if (startHooks.length > 0) emptyHookFiles(bundle);
      beginInRuncsWords(
        init,
        (said) => startHookFailure(said, bundle, startHooks) ?? refusedProgram(said, program ?? ""),
      );
      config.applyAttributes(init.pid);
      config.checkProgram(`/proc/${init.pid}/root`);
      return container;
    } catch (thrown) {
      await container.#discard();
      throw toHearthError(thrown, `create container ${id}`);
    }
  }

  get init(): ContainerProcess {
    return this.process(this.id);
  }

  /** The init process under the container's own id, others under the ids they were started with. */
  process(execId: string): ContainerProcess {
    const found = this.#processes.get(execId === "" ? this.id : execId);
    if (found !== undefined) return found;
    throw new HearthError("not-found", `process ${execId} of container ${this.id} does not exist`);
  }

  async start(): Promise<void> {
    if (this.#status !== "created") {
      throw new HearthError("failed-precondition", `start container ${this.id}: it was started before`);
    }
    this.#status = "running";
    const { crun } = this.#context;
    const { startHooks } = this.config;
    const hooks = this.#holdHooks(
      startHooks.map(({ path }) => path),
      this.init.pid,
    );
    void this.init.exitCode.then(() => hooks[Symbol.dispose]());
    await untilExecuted(this.init.pid, () =>
      this.config.hasPoststart ? crun.startWithHooks(this.#call()) : crun.start(this.id),
    );
  }

  /**
   * Starts one more process; `process` is an OCI process with at least one argument, `cgroup` one below the container's
   * or empty for that itself, `descriptors` what it can do with those that it gets beside its standard streams.
   */
  async exec(execId: string, process: JsonRecord, cgroup: string, descriptors: readonly FdUse[]): Promise<void> {
    const name = `process ${execId} of container ${this.id}`;
    if (execId === "") throw new HearthError("invalid-argument", `start process of container ${this.id}: no exec id`);
    // The id of a process that has ended may be used again.
    if (this.#processes.get(execId)?.ended === false || this.#starting.has(execId) || execId === this.id) {
      throw new HearthError("already-exists", `${name} already exists`);
    }
    this.#forgetOldest();
    if (this.#processes.size + this.#starting.size >= EXEC_PROCESSES_MAX) {
      throw new HearthError("resource-exhausted", `start ${name}: ${EXEC_PROCESSES_MAX} processes are being tracked`);
    }
    if (this.init.ended || this.#status === "removing") throw notRunning(name, undefined);
    const program = Array.isArray(process["args"]) ? String(process["args"][0]) : undefined;
    this.config.checkProgram(`/proc/${this.init.pid}/root`, process);
    const attributes = processAttributes(process);
    const terminal = process["terminal"] === true;
    const starting = this.#spawn(execId, { terminal, program, descriptors }, async (call, streams) => {
      const file = this.bundle.processFile(call.slot);
      const ofRoot = withHome(attributes.process, `/proc/${this.init.pid}/root`, this.#context.log);
      const complete = withProcessDefaults(ofRoot, this.#context.openFilesHardLimit);
      writeFileSync(file, stringifyOciJson(complete), { mode: 0o600 });
      try {
        return await this.#context.crun.exec(call, streams, this.#subCgroup(cgroup));
      } finally {
        rmSync(file, { force: true });
      }
    });
    this.#starting.set(execId, starting);
    try {
      const started = await starting;
      // crun has started it already: this comes as soon as may be.
      applyOrKill(started, attributes);
      beginInRuncsWords(started, (said) => refusedExec(said, program ?? ""));
      this.#processes.get(execId)?.[Symbol.dispose]();
      this.#processes.delete(execId);
      this.#processes.set(execId, started);
    } catch (thrown) {
      // crun has nothing to say when the namespaces it wants to join go away under it.
      if (this.init.ended) throw notRunning(name, thrown);
      throw thrown;
    } finally {
      this.#starting.delete(execId);
    }
  }

  /** Fails with not-found for one that does not exist, invalid-argument for one that is not the container's. */
  #subCgroup(path: string): string | undefined {
    if (path === "" || path === "/") return undefined;
    if (this.cgroupDir === undefined || path.split("/").includes("..")) {
      throw new HearthError("invalid-argument", `use cgroup ${path}: not one of container ${this.id}`);
    }
    if (!existsSync(join(this.cgroupDir, path))) {
      throw new HearthError("not-found", `use cgroup ${path} of container ${this.id}: no such directory`);
    }
    return path;
  }

  /** Ended processes can be asked for their exit code for a while; a container may be checked every second for years. */
  #forgetOldest(): void {
    const execs = [...this.#processes].filter(([execId]) => execId !== this.id);
    const finished = execs.filter(([, process]) => process.finished);
    const full = this.#processes.size + this.#starting.size >= EXEC_PROCESSES_MAX;
    const surplus = finished.slice(0, Math.max(finished.length - FINISHED_PROCESSES_MAX, 0));
    // Nobody has read the output of these, and now nobody will.
    const unread = full && surplus.length === 0 ? execs.filter(([, process]) => process.ended).slice(0, 1) : [];
    for (const [execId, process] of [...surplus, ...unread]) {
      this.#processes.delete(execId);
      process[Symbol.dispose]();
    }
  }

  /** A signal to one process, as runc's kill has it for the init process; exec processes get what is sent. */
  signal(execId: string, signal: number): void {
    const process = this.process(execId);
    const isInit = process === this.init;
    // PID 1 of a namespace that has no handler ignores them: so would crun, which waits for the start.
    const ends = isInit && this.#status === "created" && ENDING_SIGNALS.has(signal);
    process.signal(ends ? SIGKILL : signal);
    // Without a pid namespace of its own nothing else ends the processes beside it.
    if (isInit && signal === SIGKILL && !this.config.ownPidNamespace && this.cgroupDir !== undefined) {
      killCgroup(this.cgroupDir);
    }
  }

  /** A signal to every process of the container. */
  signalAll(signal: number): void {
    if (signal === SIGKILL && this.cgroupDir !== undefined) {
      killCgroup(this.cgroupDir);
      return;
    }
    for (const pid of this.pids()) signalPid(pid, signal);
  }

  /** Pids of every process, as the guest numbers them. */
  pids(): number[] {
    if (this.cgroupDir !== undefined) return cgroupPids(this.cgroupDir);
    return this.init.ended ? [] : pidsInNamespaceOf(this.init.pid);
  }

  async setFrozen(frozen: boolean, signal: AbortSignal): Promise<void> {
    const verb = frozen ? "pause" : "resume";
    if (this.cgroupDir === undefined) {
      throw new HearthError("failed-precondition", `${verb} container ${this.id}: the agent runs without cgroups`);
    }
    if (this.init.ended)
      throw new HearthError("failed-precondition", `${verb} container ${this.id}: container not running`);
    await freezeCgroup(this.cgroupDir, frozen, signal);
  }

  async update(resourcesJson: string): Promise<void> {
    const call = this.#call();
    const file = this.bundle.processFile(call.slot);
    const read = (name: string): string | undefined =>
      this.cgroupDir === undefined ? undefined : readCgroupFile(this.cgroupDir, name);
    writeFileSync(file, completeResources(resourcesJson, read), { mode: 0o600 });
    try {
      await this.#context.crun.update(call, file);
    } finally {
      rmSync(file, { force: true });
    }
  }

  /** Kills every process and waits `timeoutS` seconds (0: the default) for their end. */
  async end(timeoutS: number): Promise<void> {
    this.#status = "removing";
    this.#killEverything();
    // No more can start; those that just do have to be killed too.
    await Promise.allSettled(this.#starting.values());
    this.#killEverything();
    const timeoutMs = (timeoutS === 0 ? AGENT_REMOVE_TIMEOUT_S : timeoutS) * 1000;
    const ends = [...this.#processes.values()].map((process) => process.exitCode);
    await withDeadline(`processes of container ${this.id} to end`, Promise.all(ends), { timeoutMs });
  }

  /** After `end`: removes all traces. */
  async remove(): Promise<void> {
    if (this.config.hasPoststop) await this.#context.crun.deleteForced(this.#call());
    if (this.cgroupDir !== undefined) await removeCgroup(this.cgroupDir);
    this.#context.crun.removeState(this.id);
    for (const process of this.#processes.values()) process[Symbol.dispose]();
    rmSync(this.bundle.dir, { recursive: true, force: true });
  }

  /** Removes what a failed creation may have left; the failure itself is what the caller has to know. */
  async #discard(): Promise<void> {
    try {
      if (this.cgroupDir !== undefined) {
        killCgroup(this.cgroupDir);
        await removeCgroup(this.cgroupDir);
      }
      this.#context.crun.removeState(this.id);
      for (const process of this.#processes.values()) process[Symbol.dispose]();
      rmSync(this.bundle.dir, { recursive: true, force: true });
    } catch (thrown) {
      this.#context.log.warn("failed container left something", { container: this.id, error: describeError(thrown) });
    }
  }

  /** Those of the init process, in its root; or of one that is being made, in the guest's. */
  #holdHooks(paths: readonly string[], initPid: number | undefined): Disposable {
    const root = initPid === undefined ? "/" : `/proc/${initPid}/root`;
    // Most of a state are the configuration's annotations, escaped in another way perhaps.
    const stateBytesMax = 2 * Buffer.byteLength(this.config.json) + HOOK_STATE_BYTES;
    return holdHooks({ paths, root, parentPid: initPid, stateBytesMax }, this.#context.log);
  }

  #killEverything(): void {
    if (this.cgroupDir !== undefined) {
      // Frozen processes die too: SIGKILL thaws what it kills.
      killCgroup(this.cgroupDir);
    }
    for (const process of this.#processes.values()) {
      try {
        process.signal(SIGKILL);
      } catch (thrown) {
        if (!(thrown instanceof HearthError && thrown.code === "failed-precondition")) throw thrown;
      }
    }
  }

  /** Runs crun with new standard streams; they and the process are owned by the result. */
  async #spawn(
    execId: string,
    { terminal, program, descriptors }: NewProcess,
    run: (call: CrunCall, streams: CrunStreams) => Promise<number>,
  ): Promise<ContainerProcess> {
    const name = execId === this.id ? `container ${this.id}` : `process ${execId} of container ${this.id}`;
    const call = { ...this.#call(), program };
    using further = openPreservedStreams(descriptors, name);
    const preserved = further.forCrun;
    let stdio: ProcessStdio;
    let pid: number;
    if (terminal) {
      // crun sends the master and goes on without an answer: it waits in the socket until crun has ended.
      using console = ConsoleListener.listen(this.bundle.consoleSocket(call.slot));
      pid = await run(call, { stdio: { kind: "terminal", consoleSocket: console.path }, preserved });
      stdio = terminalStdio(await console.receive({ timeoutMs: CRUN_TIMEOUT_MS }), name);
    } else {
      using pipes = openStdioPipes(name);
      pid = await run(call, { stdio: pipes.forCrun, preserved });
      stdio = pipes.adopt();
    }
    return new ContainerProcess(name, pid, { stdio, preserved: further.adopt() }, this.#context.reaper);
  }

  #call(): CrunCall {
    return {
      id: this.id,
      bundle: this.bundle,
      slot: this.#context.crun.newSlot(),
      timeNamespace: this.#timeNamespace(),
    };
  }

  /** The one that the configuration asks for until there is a process in it, then that process's. */
  #timeNamespace(): TimeNamespace | undefined {
    const { timeNamespace } = this.config;
    const init = this.#processes.get(this.id);
    if (timeNamespace === undefined || init === undefined) return timeNamespace;
    return init.ended ? undefined : { kind: "joined", path: `/proc/${init.pid}/ns/time` };
  }
}

const ENDING_SIGNALS: ReadonlySet<number> = new Set([SIGHUP, SIGINT, SIGQUIT, SIGTERM]);

/** A process that cannot have what it asks for must not run on without. */
function applyOrKill(process: ContainerProcess, attributes: ProcessAttributes): void {
  if (process.ended) return;
  try {
    attributes.apply(process.pid);
  } catch (thrown) {
    if (thrown instanceof SystemError && thrown.errno === "ESRCH") return;
    if (!process.ended) process.signal(SIGKILL);
    process[Symbol.dispose]();
    throw thrown;
  }
}

/** What crun says in a process that it has made and that never became its program; what a program says stays as it is. */
function beginInRuncsWords(process: ContainerProcess, translate: (said: string) => string | undefined): void {
  process.stdio.beginWith((said) => {
    const { command } = process;
    if (command !== undefined && !CRUN_COMMAND.test(command)) return undefined;
    // In the moment of the end there is no knowing yet who said it.
    return command === undefined || isBeginOfRefusal(said) ? null : translate(said);
  });
}

/** In the words that engines look for. */
function notRunning(process: string, cause: unknown): HearthError {
  return new HearthError("failed-precondition", `start ${process}: container not running`, { cause });
}
