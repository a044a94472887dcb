/**
 * The sandbox: one VM, who possesses it, and the containers in it. Its states are idle (in the pool), leased (given away,
 * the clock runs), adopted (in use) and ending. It ends itself when a lease runs out, when the connection that adopted it
 * closes before a container was committed, when its last container goes, and when QEMU dies.
 */
import { timingSafeEqual } from "node:crypto";
import { HearthError } from "../errors.ts";
import {
  AGENT_CALL_TIMEOUT_MS,
  CONTAINERS_PER_SANDBOX_MAX,
  DISK_FLUSH_TIMEOUT_MS,
  FAREWELL_TIMEOUT_MS,
  LEASE_MS_MAX,
  QMP_CALL_TIMEOUT_MS,
  SANDBOX_END_AGENT_TIMEOUT_MS,
  VM_LEASE_AGENT_TIMEOUT_MS,
} from "../limits.ts";
import type { Log } from "../log.ts";
import { podRole } from "../oci/pod.ts";
import { parseResources, type Resources, stringifySpec } from "../oci/spec.ts";
import { childPids, type ProcessIdentity, processStat } from "../sys/process-identity.ts";
import type { Vm } from "../vm/vm.ts";
import { addToHostCgroup } from "./cgroup.ts";
import { ClockFollower } from "./clock-follower.ts";
import { Container, type ContainerRequest, type Owner } from "./container.ts";
import { VmDisks } from "./disks.ts";
import { GuestProfiles } from "./guest-profiles.ts";
import { guestResources } from "./guest-resources.ts";
import { HostOom } from "./host-oom.ts";
import { IdleEconomies } from "./idle-economies.ts";
import { SandboxNetwork } from "./network.ts";
import { OomBoard } from "./oom-board.ts";
import { repairGuest } from "./repair.ts";
import { VmResources } from "./resources.ts";
import type { Steps } from "./steps.ts";
import { VmVolumes } from "./volumes.ts";

export type SandboxState =
  | { readonly kind: "idle" }
  | { readonly kind: "leased"; readonly token: string; readonly timer: Timer }
  | { readonly kind: "adopted"; readonly possessor: Owner | undefined }
  | { readonly kind: "ending"; readonly reason: string };

type Timer = ReturnType<typeof setTimeout>;

export interface AdoptOptions {
  readonly token: string;
  /** 0: as the VM is. */
  readonly vcpus: number;
  /** MiB; 0: as the VM is. */
  readonly memoryMib: number;
  readonly cgroupDirs: readonly string[];
}

export interface NetworkRequest {
  /** Path of a network namespace. */
  readonly netns: string;
  /** Of name servers within it, IPv4; the guest reaches them under the same addresses. */
  readonly loopbackNameServers: readonly string[];
  /** The guest's localhost becomes that of the namespace, for TCP. */
  readonly relayLocalhost: boolean;
}

export interface ConnectedNetwork {
  /** Interfaces that the VM did not have before. */
  readonly connected: number;
  readonly warnings: string[];
}

export interface SandboxDependencies {
  readonly vm: Vm;
  readonly steps: Steps;
  readonly log: Log;
  /** Called after every change of state or containers: writes the record. */
  readonly onChange: (sandbox: Sandbox) => void;
  /** Called once the VM and all that belongs to it are gone: ends the process. */
  readonly onEnded: (reason: string) => void;
}

export class Sandbox {
  readonly vm: Vm;
  readonly readyAtMs = Date.now();
  readonly #containers = new Map<string, Container>();
  readonly #farewells = new Set<Promise<void>>();
  /** Ids whose creation is under way: taken, but not yet to be found. */
  readonly #creating = new Set<string>();
  readonly #dependencies: SandboxDependencies;
  readonly #network: SandboxNetwork;
  readonly #resources: VmResources;
  readonly #disks: VmDisks;
  readonly #profiles: GuestProfiles;
  readonly #volumes: VmVolumes;
  #state: SandboxState = { kind: "idle" };
  #ended: Promise<void> | undefined;
  #turns: Promise<void> = Promise.resolve();
  readonly #economies: IdleEconomies;
  readonly #hostOom: HostOom;
  /** Made when the first container has started: the agent keeps the events until then. */
  #ooms: OomBoard | undefined;
  /** From the adoption on: a paused guest has its clock set then anyway. */
  #clock: ClockFollower | undefined;

  constructor(dependencies: SandboxDependencies) {
    this.#dependencies = dependencies;
    this.vm = dependencies.vm;
    this.#network = new SandboxNetwork(this.vm.hypervisor, this.vm.agent, dependencies.log);
    this.#resources = new VmResources(this.vm, dependencies.log);
    this.#disks = new VmDisks(this.vm.hypervisor);
    this.#hostOom = new HostOom(dependencies.log);
    this.#profiles = new GuestProfiles(this.vm.agent, dependencies.steps);
    this.#volumes = new VmVolumes(this.vm.agent, dependencies.steps, dependencies.log);
    this.#economies = new IdleEconomies(this.vm.processes, () => this.#state.kind === "idle", dependencies.log);
    void this.vm.hypervisor.ended.then((end) => {
      if (this.#state.kind === "ending") return;
      dependencies.log.error("qemu ended", { exitCode: end.exitCode, signal: end.signal, logTail: end.logTail });
      void this.end("qemu ended");
    });
    void this.vm.shared.failed.then(async (failure) => {
      // It ends with QEMU too, and then QEMU's end is the reason.
      const runState = await this.vm.hypervisor.runState(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS)).catch(() => "ended");
      if (this.#state.kind === "ending" || runState === "ended") return;
      dependencies.log.error("shared directory failed", { error: failure.message });
      void this.end("shared directory failed");
    });
  }

  /** The process does not exit before this answer was given; bounded by FAREWELL_TIMEOUT_MS. */
  stayFor(answered: Promise<void>): void {
    this.#farewells.add(answered);
    void answered.then(() => this.#farewells.delete(answered));
  }

  /** Resolves when those who asked for the end know of it, or have had their time. */
  async farewell(): Promise<void> {
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, FAREWELL_TIMEOUT_MS));
    await Promise.race([Promise.all(this.#farewells), timeout]);
  }

  get state(): SandboxState {
    return this.#state;
  }

  get containerIds(): string[] {
    return [...this.#containers.keys()];
  }

  /** QEMU and QMP answer; with `agent` the guest too, resumed for that moment when it is paused. */
  async check(withAgent: boolean): Promise<void> {
    assertNotStopped(this.vm.processes);
    await this.#turn(() => this.#assertRunState(this.#state.kind === "idle" ? "paused" : "running"));
    if (!withAgent) return;
    const ask = () => this.vm.agent.health.check({}, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    await (this.#state.kind === "idle" ? this.#whileResumed(ask) : ask());
  }

  /** For a VM that was paused: gives back what it does without while it is idle. */
  settle(): void {
    if (this.#state.kind === "idle") void this.#economies.begin();
  }

  /** A lease that came meanwhile wants it paused too: the adopter resumes it. */
  async #whileResumed(work: () => Promise<unknown>): Promise<void> {
    await this.#turn(async () => {
      await this.vm.hypervisor.resume(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
      try {
        await work();
      } finally {
        await this.vm.hypervisor.pause(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
      }
    });
    this.settle();
  }

  /** One after another: whoever resumes an idle VM for a moment has paused it again before the next one looks. */
  #turn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turns.then(work);
    this.#turns = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  /**
   * idle → leased. The VM is destroyed unless `adopt` comes with the token within `leaseMs` (1 to 600000). QEMU must answer;
   * `withAgent` the guest too, and then the VM is left running: its adopter would resume it as its first step.
   */
  async lease(token: string, leaseMs: number, withAgent: boolean): Promise<void> {
    if (token.length < 16 || leaseMs < 1 || leaseMs > LEASE_MS_MAX) {
      throw new HearthError("invalid-argument", "lease VM: token is too short or lease time out of range");
    }
    if (this.#state.kind !== "idle")
      throw new HearthError("failed-precondition", `lease VM: it is ${this.#state.kind}`);
    // Asked first: the record is written while QEMU answers.
    const answer = this.#prove(withAgent);
    this.#setState(this.#leased(token, leaseMs));
    try {
      await answer;
    } catch (error) {
      void this.end(withAgent ? "qemu or the agent does not answer" : "qemu does not answer");
      throw error;
    }
  }

  /** What is stopped is found at once; the others have to answer. */
  async #prove(withAgent: boolean): Promise<void> {
    assertNotStopped(this.vm.processes);
    await this.#turn(() => (withAgent ? this.#wake() : this.#assertRunState("paused")));
  }

  async #assertRunState(expected: "paused" | "running"): Promise<void> {
    const runState = await this.vm.hypervisor.runState(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
    if (runState !== expected) throw new HearthError("unavailable", `check VM: it is ${runState} and not ${expected}`);
  }

  /** Both are asked at once: the agent's answer comes when QEMU has resumed the guest. */
  async #wake(): Promise<void> {
    await Promise.all([
      this.vm.hypervisor.resume(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS)),
      this.vm.agent.health.check({}, { timeoutMs: VM_LEASE_AGENT_TIMEOUT_MS }),
    ]);
  }

  #leased(token: string, leaseMs: number): SandboxState {
    const timer = setTimeout(() => void this.end("lease ran out"), leaseMs);
    return { kind: "leased", token, timer };
  }

  /** leased → adopted: resumed, repaired and grown. The owner's connection is the possession until a container is committed. */
  async adopt(options: AdoptOptions, owner: Owner): Promise<void> {
    const state = this.#state;
    if (state.kind !== "leased") throw new HearthError("failed-precondition", `adopt VM: it is ${state.kind}`);
    if (!equalTokens(state.token, options.token)) throw new HearthError("permission-denied", "adopt VM: wrong token");
    clearTimeout(state.timer);
    this.#setState({ kind: "adopted", possessor: owner });
    const { steps } = this.#dependencies;
    try {
      await steps.run("move-to-cgroup", QMP_CALL_TIMEOUT_MS, async () => {
        for (const { pid } of [this.vm.owner, ...this.vm.processes]) addToHostCgroup(options.cgroupDirs, pid);
      });
      const runState = await this.vm.hypervisor.runState(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
      if (runState === "paused") {
        await steps.run("resume", QMP_CALL_TIMEOUT_MS, (signal) => this.vm.hypervisor.resume(signal));
      }
      this.#clock = new ClockFollower(this.vm.agent, this.#dependencies.log);
      await steps.run("repair", AGENT_CALL_TIMEOUT_MS, (signal) => repairGuest(this.vm.agent, signal));
      await steps.run("add-resources", AGENT_CALL_TIMEOUT_MS, (signal) =>
        this.#resources.growTo(options, options.cgroupDirs, signal),
      );
    } catch (error) {
      void this.end("adoption failed");
      throw error;
    }
    this.#changed();
  }

  /** Connects what the VM does not have yet. */
  async connectNetwork({ netns, loopbackNameServers, relayLocalhost }: NetworkRequest): Promise<ConnectedNetwork> {
    this.#assertAdopted();
    return await this.#dependencies.steps.run("connect-network", AGENT_CALL_TIMEOUT_MS, async (signal) => {
      const connecting = this.#network.connect(netns, loopbackNameServers, signal);
      // While that waits for other programs.
      const warning = relayLocalhost ? this.#network.relayLocalhost(netns) : undefined;
      return { connected: await connecting, warnings: warning === undefined ? [] : [warning] };
    });
  }

  async createContainer(
    request: ContainerRequest,
    size: { readonly rows: number; readonly columns: number },
  ): Promise<Container> {
    this.#assertAdopted();
    if (this.#containers.has(request.id) || this.#creating.has(request.id)) {
      throw new HearthError("already-exists", `container with id ${request.id} already exists`);
    }
    if (this.#containers.size + this.#creating.size >= CONTAINERS_PER_SANDBOX_MAX) {
      throw new HearthError(
        "resource-exhausted",
        `create container: ${CONTAINERS_PER_SANDBOX_MAX} are in this sandbox`,
      );
    }
    this.#creating.add(request.id);
    try {
      if (podRole(request.spec.annotations).kind === "sandbox") this.#resources.setPodSandbox(request.id);
      await this.#growFor(request.id, request.spec.linux?.resources);
      const container = await Container.create(request, size, {
        agent: this.vm.agent,
        shared: this.vm.shared,
        ownBootId: this.vm.isClone,
        steps: this.#dependencies.steps,
        log: this.#dependencies.log,
        neighbours: {
          containerOfPid: (pid) => [...this.#containers.values()].find(({ shimPid }) => shimPid === pid)?.id,
          hasContainer: (id) => this.#containers.has(id),
        },
        containerOfPath: (type, path) =>
          [...this.#containers.values()].find((container) => container.hasNamespace(type, path))?.id,
        volumes: this.#volumes,
        disks: this.#disks,
        profiles: this.#profiles,
        oomTold: () => this.#oomTold(request.id),
      });
      this.#containers.set(request.id, container);
      this.#changed();
      return container;
    } catch (error) {
      this.#resources.forget(request.id);
      throw error;
    } finally {
      this.#creating.delete(request.id);
    }
  }

  /** Interfaces that came into an empty network namespace since the create are connected first. */
  async startContainer(id: string): Promise<void> {
    const container = this.container(id);
    await this.#network.connectLate(AbortSignal.timeout(AGENT_CALL_TIMEOUT_MS));
    await container.start();
    this.#oomBoard();
  }

  /** Changes the limits of a container; the VM grows first when they ask for more than it has. */
  async updateContainer(id: string, resourcesJson: Uint8Array): Promise<void> {
    this.container(id);
    const warnings: string[] = [];
    const wanted = parseResources(new TextDecoder().decode(resourcesJson), `resources of container ${id}`);
    const resources = guestResources(wanted, { kind: "single" }, warnings);
    for (const warning of warnings) this.#dependencies.log.warn(warning, { container: id });
    await this.#growFor(id, resources);
    this.#changed();
    await this.vm.agent.agent.updateContainer(
      { containerId: id, resourcesJson: new TextEncoder().encode(stringifySpec(resources)) },
      { timeoutMs: AGENT_CALL_TIMEOUT_MS },
    );
  }

  async #growFor(id: string, resources: Resources | undefined): Promise<void> {
    await this.#dependencies.steps.run("add-resources", AGENT_CALL_TIMEOUT_MS, (signal) =>
      this.#resources.growFor(id, resources, signal),
    );
  }

  container(id: string): Container {
    const container = this.#containers.get(id);
    if (container === undefined) throw new HearthError("not-found", `container ${id} does not exist`);
    return container;
  }

  /** Resolves when a process of the container was killed for want of memory: each kill is told once. */
  waitOom(id: string, signal: AbortSignal): Promise<void> {
    this.container(id);
    return this.#oomBoard().next(id, signal);
  }

  #oomBoard(): OomBoard {
    this.#ooms ??= new OomBoard(this.vm.agent, this.#dependencies.log, (id) => {
      const container = this.#containers.get(id);
      if (container !== undefined) this.#hostOom.tell(id, container.cgroupsPath);
    });
    return this.#ooms;
  }

  /**
   * Resolves when the container's engine has been told of the OOM kills until now. The agent has noticed them before it answered who
   * waits for the process; another answer of its says that its events, sent in between, are here.
   */
  async #oomTold(id: string): Promise<void> {
    await this.vm.agent.health.check({}, { timeoutMs: AGENT_CALL_TIMEOUT_MS });
    await this.#hostOom.told(id);
  }

  /** From now the container, and with it the VM, outlives the connection that created it. */
  commitContainer(id: string, shimPid: number): void {
    this.#assertAdopted();
    const container = this.container(id);
    container.uncommittedOwner = undefined;
    container.shimPid = shimPid;
    this.#setState({ kind: "adopted", possessor: undefined });
  }

  /** True when it was the last one: the VM is then already ending. Fails with failed-precondition while it runs. */
  async deleteContainer(id: string, force: boolean): Promise<boolean> {
    const container = this.container(id);
    if (!force && (container.status === "running" || container.status === "paused")) {
      throw new HearthError(
        "failed-precondition",
        `cannot delete container ${id} that is not stopped: ${container.status}`,
      );
    }
    if (this.#containers.size === 1 && this.#creating.size === 0) {
      await this.end("last container deleted");
      return true;
    }
    await container.remove();
    this.#containers.delete(id);
    this.#resources.forget(id);
    this.#hostOom.forget(id);
    this.#changed();
    return false;
  }

  /** A client's connection closed: what it possessed and had not committed goes. */
  async connectionClosed(owner: Owner): Promise<void> {
    if (this.#state.kind === "ending") return;
    for (const container of [...this.#containers.values()]) {
      if (!(await container.connectionClosed(owner))) continue;
      this.#dependencies.log.warn("client gone before commit, removing container", { container: container.id });
      await this.deleteContainer(container.id, true).catch((error: unknown) => {
        this.#dependencies.log.error("remove container", { container: container.id, error: String(error) });
      });
    }
    if (this.#state.kind === "adopted" && this.#state.possessor === owner) await this.end("client gone before commit");
  }

  /** Ends every container, QEMU and what belongs to it, then calls onEnded. Idempotent; resolves when all is gone. */
  end(reason: string): Promise<void> {
    this.#ended ??= this.#end(reason);
    return this.#ended;
  }

  async #end(reason: string): Promise<void> {
    const before = this.#state;
    if (before.kind === "leased") clearTimeout(before.timer);
    this.#setState({ kind: "ending", reason });
    this.#dependencies.log.info("sandbox ending", { reason });
    if (before.kind === "adopted" && this.#containers.size > 0) {
      // Lets the guest write back what its page cache holds for the shared directory and disks; bounded, since it may be dead.
      const timeoutMs = this.#disks.isEmpty ? SANDBOX_END_AGENT_TIMEOUT_MS : DISK_FLUSH_TIMEOUT_MS;
      await this.vm.agent.agent.destroySandbox({}, { timeoutMs }).catch(() => {});
    }
    this.#clock?.[Symbol.dispose]();
    this.#volumes[Symbol.dispose]();
    await this.vm.endHypervisor();
    this.#ooms?.[Symbol.dispose]();
    await this.#network[Symbol.asyncDispose]();
    for (const container of this.#containers.values()) {
      await container.abandon().catch((error: unknown) => {
        this.#dependencies.log.error("undo exposures", { container: container.id, error: String(error) });
      });
    }
    this.#containers.clear();
    this.#disks[Symbol.dispose]();
    await this.vm[Symbol.asyncDispose]();
    this.#dependencies.onEnded(reason);
  }

  #assertAdopted(): void {
    if (this.#state.kind !== "adopted") {
      throw new HearthError("failed-precondition", `use VM: it is ${this.#state.kind} and not adopted`);
    }
  }

  #setState(state: SandboxState): void {
    this.#state = state;
    this.#changed();
  }

  #changed(): void {
    this.#dependencies.onChange(this);
  }

  /** For a VM that its spawner wants leased from the first moment. */
  beginLeased(token: string, leaseMs: number): void {
    this.#setState(this.#leased(token, leaseMs));
  }
}

/** QEMU, stopped, answers nothing; virtiofsd, or the child that does its work, is not asked anything until a container needs it. */
function assertNotStopped(processes: readonly ProcessIdentity[]): void {
  for (const pid of processes.flatMap((process) => [process.pid, ...childPids(process.pid)])) {
    if (processStat(pid)?.state === "T")
      throw new HearthError("unavailable", `check VM: its process ${pid} is stopped`);
  }
}

function equalTokens(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}
