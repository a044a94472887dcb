/** One container in the VM: its exposures on the host, its processes in the guest, and which connection owns each. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AgentClient } from "../agent/client/client.ts";
import { HearthError } from "../errors.ts";
import type { StorageSchema } from "../gen/agent_pb.ts";
import {
  AGENT_CALL_TIMEOUT_MS,
  AGENT_REMOVE_TIMEOUT_S,
  CONTAINER_CREATE_TIMEOUT_MS,
  EXEC_PROCESSES_MAX,
} from "../limits.ts";
import type { Log } from "../log.ts";
import type { Neighbours } from "../oci/pod.ts";
import { type Namespace, type Process, parseProcess, type Spec, stringifySpec } from "../oci/spec.ts";
import type { ExposedPath, SharedDirectory } from "../storage/shared-directory.ts";
import { mountOptionsAt, mountPointsBelow } from "../sys/mount.ts";
import { inMountNamespace } from "../sys/namespace.ts";
import { directoryModeInRoot, makeInRoot, resolveInRoot } from "../sys/open-in-root.ts";
import { KILLED_STATUS, SIGKILL } from "../sys/signals.ts";
import type { PluggedDisk, VmDisks } from "./disks.ts";
import type { GuestProfiles } from "./guest-profiles.ts";
import { type GuestSpec, toGuestSpec } from "./guest-spec.ts";
import { namedHookFailure } from "./hook-failure.ts";
import { hostFileType, hostHasDevice, hostTmpfs } from "./host-file.ts";
import { hostSecurity } from "./host-security.ts";
import { isMirrored } from "./mirrored-volume.ts";
import { labelledProcess } from "./process-labels.ts";
import { withSeccompProgram } from "./seccomp-filter.ts";
import type { Steps } from "./steps.ts";
import type { VmVolumes } from "./volumes.ts";

/** What ties something to the life of a client: compared by identity. */
export type Owner = object;

export interface ContainerRequest {
  readonly id: string;
  readonly bundle: string;
  readonly spec: Spec;
  readonly owner: Owner;
  /** Path of the mount namespace that the configuration's paths belong to; undefined: ours. */
  readonly mountNamespace: string | undefined;
  /** What its process can do with its descriptors 3, 4, …, as the protocol numbers it. */
  readonly descriptors: readonly number[];
}

export interface ExecRequest {
  readonly execId: string;
  /** OCI process as JSON. */
  readonly processJson: Uint8Array;
  /** Below the container's own, or empty for that itself. */
  readonly cgroup: string;
  /** As ContainerRequest's. */
  readonly descriptors: readonly number[];
}

/** A process of the container. The end of its owner's connection kills it; one that has ended by itself is forgotten then. */
interface ProcessEntry {
  owner: Owner | undefined;
  /** Exit status once somebody saw it; the agent answers repeated waits too, but not after the VM has gone. */
  exitStatus: number | undefined;
}

export type ContainerStatus = "created" | "running" | "paused";
type PausableStatus = Exclude<ContainerStatus, "paused">;

export interface ContainerDependencies {
  readonly agent: AgentClient;
  readonly shared: SharedDirectory;
  /** See GuestSpecContext. */
  readonly ownBootId: boolean;
  readonly steps: Steps;
  readonly log: Log;
  /** The containers of this sandbox. */
  readonly neighbours: Neighbours;
  /** The one whose configuration has this path for a namespace of that type. */
  readonly containerOfPath: (type: string, path: string) => string | undefined;
  readonly volumes: VmVolumes;
  readonly disks: VmDisks;
  readonly profiles: GuestProfiles;
  /** Resolves when its engine has been told of the OOM kills in it until now. */
  readonly oomTold: () => Promise<void>;
}

export class Container {
  readonly id: string;
  readonly terminal: boolean;
  readonly warnings: readonly string[];
  /** As the configuration has it. */
  readonly cgroupsPath: string | undefined;
  /** Set until the container is committed: the end of this connection removes the container. */
  uncommittedOwner: Owner | undefined;
  /** Pid of its shim on the host, by which engines know it; undefined until it is committed. */
  shimPid: number | undefined;
  #status: PausableStatus = "created";
  #paused = false;
  #removing: Promise<void> | undefined;
  readonly #namespaces: readonly Namespace[];
  readonly #exposed: readonly ExposedPath[];
  readonly #disks: readonly PluggedDisk[];
  /** Its processes have an AppArmor profile, if they do not name another. */
  readonly #isConfined: boolean;
  readonly #processes = new Map<string, ProcessEntry>();
  readonly #dependencies: ContainerDependencies;

  private constructor(
    { id, owner, spec }: ContainerRequest,
    process: Process | undefined,
    warnings: readonly string[],
    exposed: readonly ExposedPath[],
    disks: readonly PluggedDisk[],
    dependencies: ContainerDependencies,
  ) {
    this.id = id;
    this.terminal = process?.terminal === true;
    this.#isConfined = process?.apparmorProfile !== undefined;
    this.warnings = warnings;
    this.cgroupsPath = spec.linux?.cgroupsPath;
    this.uncommittedOwner = owner;
    this.#namespaces = spec.linux?.namespaces ?? [];
    this.#exposed = exposed;
    this.#disks = disks;
    this.#dependencies = dependencies;
    this.#processes.set(id, { owner: undefined, exitStatus: undefined });
  }

  /** Exposes the host's paths and creates the container in the guest; nothing of it is left when this fails. */
  static async create(
    request: ContainerRequest,
    size: { readonly rows: number; readonly columns: number },
    dependencies: ContainerDependencies,
  ): Promise<Container> {
    const { agent, shared, steps } = dependencies;
    const { mountNamespace } = request;
    const translate = () =>
      toGuestSpec(request.spec, {
        containerId: request.id,
        bundle: request.bundle,
        fileTypeOf: hostFileType,
        ownBootId: dependencies.ownBootId,
        modeInRoot: directoryModeInRoot,
        placeInRoot: resolveInRoot,
        mountsBelow: mountPointsBelow,
        mountFlags: mountOptionsAt,
        tmpfsAt: hostTmpfs,
        // Another namespace's is not seen any more when its client has gone.
        isMirrored: (hostPath) => mountNamespace === undefined && isMirrored(hostPath),
        security: hostSecurity(),
        hasDevice: hostHasDevice,
        ...dependencies.neighbours,
        containerOfPath: dependencies.containerOfPath,
      });
    const guest = mountNamespace === undefined ? translate() : inMountNamespace(mountNamespace, translate);
    const warnings = [...guest.warnings];
    const labelled = guest.config.process && { process: guest.config.process, profiles: guest.profiles };
    const process = labelled && (await dependencies.profiles.load(labelled, warnings));
    await using undo = new AsyncDisposableStack();
    const exposed: ExposedPath[] = [];
    await steps.run("expose", AGENT_CALL_TIMEOUT_MS, async () => {
      const makePoints = () => makeMountPoints(guest);
      if (mountNamespace === undefined) makePoints();
      else inMountNamespace(mountNamespace, makePoints);
      for (const { hostPath, relativePath, recursive, overlay, idMapping } of guest.exposures) {
        const options = { recursive, overlay, idMapping, mountNamespace };
        exposed.push(undo.use(await shared.expose(hostPath, relativePath, options)));
      }
    });
    await dependencies.volumes.mount(guest.volumes);
    const disks: PluggedDisk[] = [];
    const storages: MessageInitShape<typeof StorageSchema>[] = guest.binds.map(({ options, ...bind }) => ({
      driver: "bind",
      options: [...options],
      ...bind,
    }));
    if (guest.disks.length > 0) {
      await steps.run("plug-disks", AGENT_CALL_TIMEOUT_MS, async (signal) => {
        for (const { hostPath, fsType, options, mountPoint } of guest.disks) {
          const disk = await dependencies.disks.plug(hostPath, mountNamespace, signal);
          undo.defer(() => disk.release());
          disks.push(disk);
          storages.push({ driver: "blk", source: disk.pciPath, fstype: fsType, options: [...options], mountPoint });
        }
      });
    }
    const labelledConfig = process === undefined ? guest.config : { ...guest.config, process };
    const config = withSeccompProgram(withTerminalSize(labelledConfig, size));
    const creation = {
      containerId: request.id,
      execId: request.id,
      storages,
      ociJson: new TextEncoder().encode(stringifySpec(config)),
      descriptors: [...request.descriptors],
    };
    await steps.run("create-container", CONTAINER_CREATE_TIMEOUT_MS, (signal) =>
      agent.agent.createContainer(creation, { signal }).catch((thrown: unknown) => {
        throw namedHookFailure(thrown, request.spec.hooks?.createContainer);
      }),
    );
    undo.move();
    return new Container(request, process, warnings, exposed, disks, dependencies);
  }

  get status(): ContainerStatus | "stopped" {
    if (this.#init.exitStatus !== undefined) return "stopped";
    return this.#paused ? "paused" : this.#status;
  }

  /** True when its configuration names a namespace of that type by this path. */
  hasNamespace(type: string, path: string): boolean {
    return this.#namespaces.some((namespace) => namespace.type === type && namespace.path === path);
  }

  get #init(): ProcessEntry {
    const entry = this.#processes.get(this.id);
    if (entry === undefined) throw new HearthError("internal", `find init process of container ${this.id}`);
    return entry;
  }

  async start(): Promise<void> {
    if (this.status !== "created") {
      throw new HearthError("failed-precondition", `cannot start a container that is ${this.status}`);
    }
    const { agent, steps } = this.#dependencies;
    await steps.run("start-container", AGENT_CALL_TIMEOUT_MS, (signal) =>
      agent.agent.startContainer({ containerId: this.id }, { signal }),
    );
    this.#status = "running";
  }

  async pause(): Promise<void> {
    if (this.status !== "created" && this.status !== "running") throw notRunning(this.id);
    await this.#agent.pauseContainer({ containerId: this.id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    this.#paused = true;
  }

  async resume(): Promise<void> {
    if (this.status !== "paused") throw new HearthError("failed-precondition", `container ${this.id} is not paused`);
    await this.#agent.resumeContainer({ containerId: this.id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    this.#paused = false;
  }

  /** Starts another process, which ends with its owner. Returns warnings, but for those that the container has already. */
  async exec({ execId, processJson, cgroup, descriptors }: ExecRequest, owner: Owner): Promise<string[]> {
    if (this.status !== "created" && this.status !== "running") throw notRunning(this.id);
    if (execId === "" || this.#processes.has(execId)) {
      throw new HearthError("already-exists", `exec process ${execId}: id is empty or in use`);
    }
    if (this.#processes.size >= EXEC_PROCESSES_MAX) this.#forgetOldest();
    const warnings: string[] = [];
    const wanted = parseProcess(new TextDecoder().decode(processJson), `process ${execId}`);
    const labelled = labelledProcess(wanted, hostSecurity(), this.#isConfined, warnings);
    const entry: ProcessEntry = { owner, exitStatus: undefined };
    this.#processes.set(execId, entry);
    try {
      const process = stringifySpec(await this.#dependencies.profiles.load(labelled, warnings));
      await this.#dependencies.steps.run("exec-process", CONTAINER_CREATE_TIMEOUT_MS, (signal) =>
        this.#agent.execProcess(
          {
            containerId: this.id,
            execId,
            processJson: new TextEncoder().encode(process),
            cgroup,
            descriptors: [...descriptors],
          },
          { signal },
        ),
      );
    } catch (error) {
      this.#processes.delete(execId);
      throw error;
    }
    // Whoever wanted it has gone meanwhile, and it was forgotten here before the guest had it.
    if (entry.owner === undefined) {
      await this.#agent.signalProcess(
        { containerId: this.id, execId, signal: SIGKILL },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      );
    }
    return warnings.filter((warning) => !this.warnings.includes(warning));
  }

  /** Of those that have ended, whose owner has not gone yet. */
  #forgetOldest(): void {
    const ended = [...this.#processes].find(([id, { exitStatus }]) => id !== this.id && exitStatus !== undefined);
    if (ended === undefined) {
      throw new HearthError("resource-exhausted", `exec in container ${this.id}: ${EXEC_PROCESSES_MAX} processes run`);
    }
    this.#processes.delete(ended[0]);
  }

  /** `execId` empty is the init process. Fails with not-found when it has ended, as kill(2) does. */
  async signal(execId: string, signal: number, all: boolean): Promise<void> {
    const entry = this.process(execId);
    if (entry.exitStatus !== undefined && !all) {
      throw new HearthError("not-found", "no such process", { facts: { container: this.id, execId } });
    }
    await this.#agent.signalProcess(
      { containerId: this.id, execId: all ? "" : execId || this.id, signal },
      { timeoutMs: AGENT_CALL_TIMEOUT_MS },
    );
  }

  /** Answers when the process has ended. An owner's `signal` that aborts gives up waiting; see `connectionClosed`. */
  async wait(execId: string, owner: Owner | undefined, signal: AbortSignal): Promise<number> {
    const entry = this.process(execId);
    if (owner !== undefined) entry.owner = owner;
    if (entry.exitStatus !== undefined) return entry.exitStatus;
    const { status } = await this.#agent.waitProcess({ containerId: this.id, execId: execId || this.id }, { signal });
    // Engines ask whether it was for want of memory as soon as the container has ended.
    if (status === KILLED_STATUS && entry === this.#init) await this.#dependencies.oomTold().catch(() => undefined);
    entry.exitStatus = status & 0xff;
    return entry.exitStatus;
  }

  /** A client went away: what it owned ends. True when the whole container was its own and has to be removed. */
  async connectionClosed(owner: Owner): Promise<boolean> {
    if (this.uncommittedOwner === owner) return true;
    for (const [execId, entry] of this.#processes) {
      if (entry.owner !== owner) continue;
      entry.owner = undefined;
      const isInit = execId === this.id;
      if (entry.exitStatus === undefined) {
        this.#dependencies.log.warn("owner of process is gone, killing it", { container: this.id, execId });
        await this.signal(execId, SIGKILL, isInit).catch(() => {});
      }
      if (!isInit) this.#processes.delete(execId);
    }
    return false;
  }

  process(execId: string): ProcessEntry {
    const entry = this.#processes.get(execId || this.id);
    if (entry === undefined) throw new HearthError("not-found", `exec process ${execId} does not exist`);
    return entry;
  }

  /** Ends what runs, removes the container from the guest, unplugs its disks and undoes its exposures. Idempotent. */
  remove(): Promise<void> {
    this.#removing ??= this.#remove(true);
    return this.#removing;
  }

  /** As remove, when the VM ends with it: only the host's side is undone. */
  abandon(): Promise<void> {
    this.#removing ??= this.#remove(false);
    return this.#removing;
  }

  async #remove(inGuest: boolean): Promise<void> {
    try {
      if (inGuest) {
        await this.#agent.removeContainer(
          { containerId: this.id, timeout: AGENT_REMOVE_TIMEOUT_S },
          { timeoutMs: AGENT_REMOVE_TIMEOUT_S * 1000 + AGENT_CALL_TIMEOUT_MS },
        );
        for (const disk of this.#disks) await disk.release();
      }
    } finally {
      for (const exposed of this.#exposed.toReversed()) await exposed[Symbol.asyncDispose]();
    }
  }

  get #agent(): AgentClient["agent"] {
    return this.#dependencies.agent.agent;
  }
}

/** crun would make them too, but with another mode, and neither through a link that leads nowhere nor for a /proc deep inside. */
function makeMountPoints({ hostRootfs, mountPoints }: GuestSpec): void {
  for (const { path, kind } of mountPoints) makeInRoot(hostRootfs, path, kind);
}

function notRunning(id: string): HearthError {
  return new HearthError("failed-precondition", "container not running", { facts: { container: id } });
}

function withTerminalSize(config: Spec, size: { readonly rows: number; readonly columns: number }): Spec {
  if (config.process === undefined || !config.process.terminal || size.rows === 0) return config;
  return { ...config, process: { ...config.process, consoleSize: { height: size.rows, width: size.columns } } };
}
