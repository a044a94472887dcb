/** Gives the VM the interfaces of a network namespace, those that come and go later too, and the namespace the VM's localhost. */
import { randomBytes } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AgentClient } from "../agent/client/client.ts";
import { describeError, HearthError } from "../errors.ts";
import type { RouteSchema, IPFamily as WireFamily } from "../gen/types_pb.ts";
import { IPFamily } from "../gen/types_table.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import { AGENT_CALL_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import {
  connectInterface,
  interfaceIndices,
  isTapName,
  type NetworkEndpoint,
  readNetwork,
} from "../network/endpoint.ts";
import { InterfaceWatch } from "../network/interface-watch.ts";
import { type NetworkInterface, type NetworkView, obstacleTo } from "../network/network-view.ts";
import { devicesOf, type NetworkRoute } from "../network/route-view.ts";
import { LocalhostRelay } from "./localhost-relay.ts";
import { relayNames } from "./name-relay.ts";

interface Connected {
  readonly endpoint: NetworkEndpoint;
  /** Of the interface: another that has its name since is not connected. */
  readonly index: number;
  /** Of QEMU's device. */
  readonly nicId: string;
}

export class SandboxNetwork implements AsyncDisposable {
  readonly #hypervisor: Hypervisor;
  readonly #agent: AgentClient;
  readonly #log: Log;
  /** By the name of the interface. */
  readonly #endpoints = new Map<string, Connected>();
  #nextNicNumber = 0;
  readonly #closing = new AbortController();
  /** Open as long as there are endpoints: it keeps the path of their namespace valid. */
  #watch: InterfaceWatch | undefined;
  /** Ends when `closing` aborts. */
  #following: Promise<unknown> | undefined;
  #localhost: LocalhostRelay | undefined;
  /** The namespace to look at again, because it had no interfaces yet. */
  #empty: { readonly netns: string; readonly loopbackNameServers: readonly string[] } | undefined;

  constructor(hypervisor: Hypervisor, agent: AgentClient, log: Log) {
    this.#hypervisor = hypervisor;
    this.#agent = agent;
    this.#log = log;
  }

  /**
   * Returns the number of interfaces connected by this call; where there is one, those that come later are connected too,
   * as `docker network connect` adds them. Starts no process when there is none to connect. Name servers that listen on
   * `loopbackNameServers` of the namespace are reached from the guest under the same addresses.
   */
  async connect(netns: string, loopbackNameServers: readonly string[], signal: AbortSignal): Promise<number> {
    if (this.#watch !== undefined) return 0;
    this.#empty = interfaceIndices(netns).size === 0 ? { netns, loopbackNameServers } : undefined;
    if (this.#empty !== undefined) return 0;
    // From before the first look, so that nothing is missed in between.
    const watch = new InterfaceWatch(netns);
    this.#watch = watch;
    const count = await this.#connectNew(watch.netns, () => true, signal);
    for (const address of loopbackNameServers) await this.#agent.agent.serveNames({ address }, { signal });
    const closing = this.#closing.signal;
    const following = [this.#follow(watch, closing)];
    if (loopbackNameServers.length > 0) following.push(relayNames(this.#agent, watch.netns, this.#log, closing));
    this.#following = Promise.all(following);
    return count;
  }

  /** Where there were no interfaces before and now are: between a create and a start, `ctr run --cni` makes them. */
  async connectLate(signal: AbortSignal): Promise<void> {
    if (this.#empty !== undefined) await this.connect(this.#empty.netns, this.#empty.loopbackNameServers, signal);
  }

  /** Once. Returns a warning where the kernel does not allow it: a pod can do without. */
  relayLocalhost(netns: string): string | undefined {
    try {
      this.#localhost ??= new LocalhostRelay(this.#agent, netns, this.#log);
      return undefined;
    } catch (thrown) {
      return `localhost of the pod cannot be reached from the host, as PortForward does: ${describeError(thrown)}`;
    }
  }

  async #follow(watch: InterfaceWatch, signal: AbortSignal): Promise<void> {
    try {
      for (;;) {
        await watch.changed(signal);
        const within = AbortSignal.any([signal, AbortSignal.timeout(AGENT_CALL_TIMEOUT_MS)]);
        await this.#connectNew(watch.netns, ({ isUp }) => isUp, within);
      }
    } catch (thrown) {
      // Not tried again: to undo what was begun is a change too.
      if (!signal.aborted) this.#log.error("later interfaces are not connected", { error: describeError(thrown) });
    }
  }

  /** Those that are `complete`; what is no longer there leaves the VM. Returns the number of those connected. */
  async #connectNew(
    netns: string,
    complete: (entry: NetworkInterface) => boolean,
    signal: AbortSignal,
  ): Promise<number> {
    const present = interfaceIndices(netns);
    const gone = [...this.#endpoints].filter(([name, { index }]) => present.get(name) !== index);
    for (const [name] of gone) await this.#remove(name, signal);
    const foreign = [...present.keys()].find(isTapName);
    if (foreign !== undefined && this.#nextNicNumber === 0) {
      throw new HearthError("unimplemented", `connect network: ${foreign} connects this namespace to another VM`);
    }
    const fresh = [...present].filter(([name]) => !this.#endpoints.has(name) && !isTapName(name));
    if (fresh.length === 0 && gone.length === 0) return 0;
    const view = await readNetwork(netns, signal);
    const indices = new Map(fresh);
    const other = view.otherInterfaces.find((name) => indices.has(name));
    if (other !== undefined) {
      throw new HearthError("unimplemented", `connect interface ${other}: it carries no Ethernet frames`);
    }
    const added = view.interfaces.flatMap((entry) => {
      const index = indices.get(entry.name);
      return index !== undefined && complete(entry) ? [{ entry, index }] : [];
    });
    if (added.length === 0 && gone.length === 0) return 0;
    for (const { entry, index } of added) await this.#add(netns, entry, index, signal);
    await this.#configureRoutes(view, signal);
    return added.length;
  }

  async #add(netns: string, source: NetworkInterface, index: number, signal: AbortSignal): Promise<void> {
    const obstacle = obstacleTo(source) ?? this.#twinOf(source);
    if (obstacle !== undefined) {
      throw new HearthError("unimplemented", `connect interface ${source.name}: ${obstacle}`);
    }
    const nicNumber = this.#nextNicNumber++;
    const nicId = `nic${nicNumber}`;
    const endpoint = await connectInterface(netns, source, nicNumber, signal);
    this.#endpoints.set(source.name, { endpoint, index, nicId });
    const mac = source.mac === "" ? randomMac() : source.mac;
    await this.#hypervisor.addDevice(
      { kind: "nic", id: nicId, tapFds: [endpoint.tap.fd], mac, mtu: source.mtu },
      signal,
    );
    endpoint.tap[Symbol.dispose]();
    const IPAddresses = source.addresses.map((entry) => ({
      family: wireFamily(entry.family),
      address: entry.address,
      mask: String(entry.prefixLength),
      peer: entry.peer,
      broadcast: entry.broadcast,
      scope: entry.scope,
      label: entry.label,
      flags: entry.flags,
    }));
    await this.#agent.agent.updateInterface(
      {
        interface: {
          device: source.name,
          name: source.name,
          IPAddresses,
          mtu: BigInt(source.mtu),
          hwAddr: mac,
          rawFlags: source.flags,
        },
      },
      { signal },
    );
    this.#log.info("interface connected", { interface: source.name, mac, tap: endpoint.tapName });
  }

  /** The guest tells interfaces apart by their MAC addresses, which those of one ipvlan's parent share. */
  #twinOf({ mac }: NetworkInterface): string | undefined {
    const twin = [...this.#endpoints.values()].find(({ endpoint }) => mac !== "" && endpoint.source.mac === mac);
    return twin && `interface ${twin.endpoint.source.name} has its MAC address ${mac} too`;
  }

  async #remove(name: string, signal: AbortSignal): Promise<void> {
    const connected = this.#endpoints.get(name);
    if (connected === undefined) return;
    await this.#hypervisor.removeDevice(connected.nicId, signal);
    await connected.endpoint[Symbol.asyncDispose]();
    this.#endpoints.delete(name);
    this.#log.info("interface removed", { interface: name });
  }

  async #configureRoutes(view: NetworkView, signal: AbortSignal): Promise<void> {
    const connected = (device: string) => device === "lo" || this.#endpoints.has(device);
    const routes = view.routes.filter((route) => devicesOf(route).every(connected)).map(wireRoute);
    await this.#agent.agent.updateRoutes({ routes: { Routes: routes } }, { signal });
    const neighbours = view.neighbours
      .filter((entry) => connected(entry.device))
      .map((entry) => ({
        toIPAddress: { family: wireFamily(entry.family), address: entry.address },
        device: entry.device,
        lladdr: entry.mac,
        state: NUD_PERMANENT,
        flags: entry.isRouter ? NTF_ROUTER : 0,
      }));
    if (neighbours.length === 0) return;
    await this.#agent.agent.addARPNeighbors({ neighbors: { ARPNeighbors: neighbours } }, { signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#localhost?.[Symbol.asyncDispose]();
    await this.#following;
    for (const { endpoint } of this.#endpoints.values()) await endpoint[Symbol.asyncDispose]();
    this.#endpoints.clear();
    this.#watch?.[Symbol.dispose]();
  }
}

/** Source: rtnetlink(7), ndm_state and ndm_flags; linux/rtnetlink.h. */
const NUD_PERMANENT = 0x80;
const NTF_ROUTER = 0x80;
const RTNH_F_ONLINK = 4;

function wireRoute(route: NetworkRoute): MessageInitShape<typeof RouteSchema> {
  return {
    dest: route.destination,
    gateway: route.gateway,
    device: route.device,
    source: route.source,
    scope: route.scope,
    family: wireFamily(route.family),
    flags: wireFlags(route),
    mtu: route.mtu,
    metric: route.metric,
    type: route.type,
    tos: route.tos,
    protocol: route.protocol,
    preference: route.preference,
    expires: route.expiresS,
    metrics: [...route.metrics],
    nextHops: route.nextHops.map((hop) => ({
      gateway: hop.gateway,
      device: hop.device,
      weight: hop.weight,
      flags: wireFlags(hop),
    })),
  };
}

function wireFlags({ onLink }: { readonly onLink: boolean }): number {
  return onLink ? RTNH_F_ONLINK : 0;
}

function wireFamily(family: "v4" | "v6"): WireFamily {
  return family === "v4" ? IPFamily.v4 : IPFamily.v6;
}

/** Locally administered, unicast. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
