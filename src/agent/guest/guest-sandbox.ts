/** What the agent keeps for its one sandbox: the containers by id, and what was mounted for it. */
import { HearthError } from "../../errors.ts";
import type { CreateSandboxRequest, Device, Storage } from "../../gen/agent_pb.ts";
import { CONTAINERS_PER_SANDBOX_MAX } from "../../limits.ts";
import { checkContainerId } from "../../oci/container-id.ts";
import { guestBundlePaths } from "../../paths.ts";
import type { FdUse } from "../../sys/carried-fd.ts";
import type { AgentContext } from "./agent-context.ts";
import { Container } from "./container.ts";
import { withHome } from "./home.ts";
import type { JsonRecord } from "./json-record.ts";
import type { Json } from "./oci-from-grpc.ts";
import { ociConfig } from "./oci-view.ts";
import { OomEvents } from "./oom-events.ts";
import { hookOutputAnnotations } from "./start-hooks.ts";
import { type StorageLease, StorageMounts } from "./storage.ts";

export interface NewContainer {
  readonly id: string;
  readonly config: { readonly text: string } | { readonly value: Json };
  readonly storages: readonly Storage[];
  readonly devices: readonly Device[];
  /** Joins the pid namespace of the sandbox's first container. */
  readonly sharedPidNamespace: boolean;
  /** What its process can do with its descriptors 3, 4, … */
  readonly descriptors: readonly FdUse[];
}

interface Entry {
  readonly container: Container;
  readonly storages: StorageLease;
  readonly hugepages: Disposable | undefined;
}

export class GuestSandbox {
  readonly oomEvents: OomEvents;
  readonly #context: AgentContext;
  readonly #storages: StorageMounts;
  /** Undefined while a container is being created or removed. */
  readonly #containers = new Map<string, Entry | undefined>();
  #sandboxStorages: StorageLease[] = [];
  /** The container whose pid namespace others join. */
  #first: Container | undefined;

  constructor(context: AgentContext) {
    this.#context = context;
    this.#storages = new StorageMounts(context.log);
    this.oomEvents = new OomEvents(context.log);
  }

  /** May be asked for again, by a pool that has prepared the sandbox under another name: what is mounted stays. */
  async open(request: CreateSandboxRequest, signal: AbortSignal): Promise<void> {
    const { openSandbox } = await import("./open-sandbox.ts");
    this.#sandboxStorages.push(await openSandbox(request, this.#storages, signal));
  }

  /** Removes every container and unmounts everything; goes on when one of them fails and reports the first failure. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const id of [...this.#containers.keys()]) {
      try {
        await this.remove(id, 0);
      } catch (thrown) {
        failures.push(thrown);
      }
    }
    for (const lease of this.#sandboxStorages.reverse()) lease.release();
    this.#sandboxStorages = [];
    if (failures.length > 0) throw failures[0];
  }

  container(id: string): Container {
    const entry = this.#containers.get(id);
    if (entry !== undefined) return entry.container;
    throw new HearthError("not-found", `container ${id} does not exist`);
  }

  get containers(): readonly Container[] {
    return [...this.#containers.values()].flatMap((entry) => entry?.container ?? []);
  }

  async create(wanted: NewContainer, signal: AbortSignal): Promise<void> {
    const { id } = wanted;
    checkContainerId(id);
    if (this.#containers.has(id)) throw new HearthError("already-exists", `container ${id} already exists`);
    if (this.#containers.size >= CONTAINERS_PER_SANDBOX_MAX) {
      throw new HearthError("resource-exhausted", `create container ${id}: ${CONTAINERS_PER_SANDBOX_MAX} exist`);
    }
    this.#containers.set(id, undefined);
    let storages: StorageLease | undefined;
    let hugepages: Disposable | undefined;
    try {
      storages = await this.#storages.acquire(wanted.storages, signal);
      const { deviceNumbers } =
        wanted.devices.length === 0 ? { deviceNumbers: undefined } : await import("./devices.ts");
      const config = ociConfig(wanted.config, id, {
        openFilesHardLimit: this.#context.openFilesHardLimit,
        completeIn: (root, process) => withHome(process, root, this.#context.log),
        pidNamespace: wanted.sharedPidNamespace ? this.#sharedPidNamespace() : undefined,
        initPidOf: (other) => this.#livingInitPid(other),
        startHookAnnotations: hookOutputAnnotations(guestBundlePaths(this.#context.paths, id)),
        sysfs: this.#context.paths.sysfs,
        devices: (await deviceNumbers?.(wanted.devices, signal)) ?? [],
      });
      hugepages = await this.#reserveHugepages(id, config.withHugepages);
      const container = await Container.create(this.#context, id, config, wanted.descriptors);
      this.#first ??= container;
      this.#containers.set(id, { container, storages, hugepages });
      if (container.cgroupDir !== undefined) this.oomEvents.watch(id, container.cgroupDir);
    } catch (thrown) {
      hugepages?.[Symbol.dispose]();
      storages?.release();
      this.#containers.delete(id);
      throw thrown;
    }
  }

  /** A container that is not there is removed already. `timeoutS` 0 means the default. */
  async remove(id: string, timeoutS: number): Promise<void> {
    const entry = this.#containers.get(id);
    if (entry === undefined) {
      if (!this.#containers.has(id)) return;
      throw new HearthError("failed-precondition", `remove container ${id}: another call creates or removes it`);
    }
    this.#containers.set(id, undefined);
    try {
      await entry.container.end(timeoutS);
      this.oomEvents.unwatch(id);
      await entry.container.remove();
    } catch (thrown) {
      this.#containers.set(id, entry);
      throw thrown;
    }
    entry.storages.release();
    entry.hugepages?.[Symbol.dispose]();
    this.#containers.delete(id);
    if (this.#first === entry.container) this.#first = undefined;
  }

  async #reserveHugepages(id: string, config: JsonRecord | undefined): Promise<Disposable | undefined> {
    if (config === undefined) return undefined;
    const { reserveHugepages, wantedHugepages } = await import("./hugepages.ts");
    return reserveHugepages(wantedHugepages(config), id, this.#context.log);
  }

  #livingInitPid(id: string): number {
    const { init } = this.container(id);
    if (init.ended) throw new HearthError("failed-precondition", `join namespace: container ${id} is not running`);
    return init.pid;
  }

  #sharedPidNamespace(): string | undefined {
    if (this.#first === undefined || this.#first.init.ended) return undefined;
    return `/proc/${this.#first.init.pid}/ns/pid`;
  }
}
