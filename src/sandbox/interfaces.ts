/**
 * The VM's NICs, each joined to an interface of the network namespace. An interface that has gone leaves its NIC for a
 * while, and one that comes meanwhile takes it over: the guest keeps its own, as a replaced one's programs do.
 */
import { randomBytes } from "node:crypto";
import { HearthError } from "../errors.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import { INTERFACE_GONE_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import {
  connectInterface,
  interfaceIndices,
  isTapName,
  type NetworkEndpoint,
  readInterfaces,
  readRouting,
} from "../network/endpoint.ts";
import { type NetworkInterface, obstacleTo } from "../network/interface-view.ts";
import { devicesOf, RT_TABLE_MAIN } from "../network/route-view.ts";
import { parseRouting, type RoutingView } from "../network/routing-view.ts";
import { FIRST_RULES, type NetworkRule } from "../network/rule-view.ts";
import type { AgentCalls } from "../rpc/protocols.ts";
import { wireAddress, wireNeighbour, wireRoute, wireRule } from "./network-wire.ts";

interface Nic {
  /** Of QEMU's device. */
  readonly id: string;
  readonly endpoint: NetworkEndpoint;
  /** The namespace's interface that it is joined to. */
  state: { kind: "joined"; index: number } | { kind: "left"; index: number; at: number } | { kind: "leaving" };
  /** As in the namespace, and in the guest once that knows it. */
  name: string;
  /** In the guest; undefined: not plugged yet. */
  mac: string | undefined;
  /** What the guest was told of it last; undefined: to be told again. */
  told: string | undefined;
  /** It is joined to another interface than when the guest was told. */
  isElsewhere: boolean;
}

export interface Settled {
  /** Number of interfaces that the guest did not have. */
  readonly added: number;
  readonly failures: readonly unknown[];
}

/** What is asked of the VM and of its agent. */
type Devices = Pick<Hypervisor, "addDevice" | "removeDevice">;
type Guest = Pick<AgentCalls, "updateInterface" | "updateRoutes" | "updateRules" | "addARPNeighbors">;

export class Interfaces implements AsyncDisposable {
  readonly #devices: Devices;
  readonly #guest: Guest;
  readonly #netns: string;
  readonly #log: Log;
  readonly #nics = new Set<Nic>();
  #nextNicNumber = 0;
  /** The last join, for the next one to wait for. */
  #joining: Promise<unknown> = Promise.resolve();
  /** What the guest was told of routes and neighbours last; undefined: to be told again. */
  #toldRoutes: string | undefined;
  /** Tables in which the guest may have routes that it was told of. */
  #tables: readonly number[] = [RT_TABLE_MAIN];
  /** Rules that it may have, beside those that its containers made. */
  #rules: readonly NetworkRule[] = FIRST_RULES;
  #toldRules: string | undefined = JSON.stringify(FIRST_RULES);

  /** `netns` stays valid until this is disposed of. */
  constructor(devices: Devices, guest: Guest, netns: string, log: Log) {
    this.#devices = devices;
    this.#guest = guest;
    this.#netns = netns;
    this.#log = log;
  }

  /** Milliseconds until each of the NICs without an interface is to be taken away. */
  get removalsInMs(): number[] {
    return [...this.#nics].flatMap(({ state }) =>
      state.kind === "left" ? [Math.max(state.at + INTERFACE_GONE_MS - performance.now(), 0)] : [],
    );
  }

  /**
   * Joins interfaces that are new to NICs, whose packets wait there until the guest has them; those that have gone leave
   * theirs. Returns what kept it from joining some of them.
   */
  join(signal: AbortSignal): Promise<readonly unknown[]> {
    const joined = this.#joining.then(() => this.#join(signal));
    this.#joining = joined.catch(() => {});
    return joined;
  }

  /**
   * Gives the guest the interfaces that are `complete`, all routes, rules and neighbours, as they are now, and takes away what is
   * gone for good. Does what it can, whatever fails.
   */
  async settle(complete: (entry: NetworkInterface) => boolean, signal: AbortSignal): Promise<Settled> {
    const failures: unknown[] = [];
    const trying = async <T>(action: () => Promise<T>): Promise<T | undefined> => {
      try {
        return await action();
      } catch (thrown) {
        failures.push(thrown);
        return undefined;
      }
    };
    failures.push(...((await trying(() => this.join(signal))) ?? []));
    for (const nic of this.#nics) if (isOverdue(nic)) await trying(() => this.#remove(nic, signal));
    const [view, routingText] = await Promise.all([
      trying(() => readInterfaces(this.#netns, signal)),
      trying(() => readRouting(this.#netns, signal)),
    ]);
    let added = 0;
    for (const entry of view?.interfaces ?? []) {
      const nic = this.#joinedTo(entry.index);
      if (nic === undefined || !complete(entry)) continue;
      const isNew = nic.mac === undefined;
      await trying(() => this.#tell(nic, entry, signal));
      if (isNew && nic.told !== undefined) added++;
    }
    // Those of an interface that may be replaced stay as long as that.
    if (view !== undefined && routingText !== undefined && this.#free().length === 0) {
      const names = new Set(view.interfaces.map(({ name }) => name));
      const routing = await trying(async () => parseRouting(routingText, names));
      if (routing !== undefined) {
        await trying(() => this.#configureRoutes(routing, signal));
        await trying(() => this.#configureRules(routing, signal));
      }
    }
    return { added, failures };
  }

  async #join(signal: AbortSignal): Promise<readonly unknown[]> {
    const present = interfaceIndices(this.#netns);
    const foreign = [...present.keys()].find(isTapName);
    if (foreign !== undefined && this.#nextNicNumber === 0) {
      throw new HearthError("unimplemented", `connect network: ${foreign} connects this namespace to another VM`);
    }
    const indices = new Set(present.values());
    for (const nic of this.#nics) {
      const { state } = nic;
      if (state.kind === "leaving") continue;
      const isThere = indices.has(state.index);
      if (state.kind === "joined" && !isThere) nic.state = { ...state, kind: "left", at: performance.now() };
      // It was only renamed while we looked.
      if (state.kind === "left" && isThere) nic.state = { kind: "joined", index: state.index };
    }
    const fresh = [...present].filter(([name, index]) => !isTapName(name) && this.#joinedTo(index) === undefined);
    const failures: unknown[] = [];
    const names = new Set<string>();
    for (const [name, index] of fresh) {
      const nic = this.#free().find((free) => free.name === name);
      if (nic === undefined) names.add(name);
      else await this.#rejoin(nic, index, signal).catch((thrown: unknown) => failures.push(thrown));
    }
    if (names.size === 0) return failures;
    const view = await readInterfaces(this.#netns, signal);
    for (const name of view.otherInterfaces) {
      if (!names.has(name)) continue;
      failures.push(new HearthError("unimplemented", `connect interface ${name}: it carries no Ethernet frames`));
    }
    for (const entry of view.interfaces) {
      if (!names.has(entry.name)) continue;
      await this.#joinOne(entry, signal).catch((thrown: unknown) => failures.push(thrown));
    }
    return failures;
  }

  async #joinOne(entry: NetworkInterface, signal: AbortSignal): Promise<void> {
    const obstacle = obstacleTo(entry);
    if (obstacle !== undefined) throw notConnected(entry, obstacle);
    const { name, index } = entry;
    const [free] = this.#free();
    if (free !== undefined) return await this.#rejoin(free, index, signal);
    const number = this.#nextNicNumber++;
    const endpoint = await connectInterface(this.#netns, entry, number, signal);
    const state = { kind: "joined", index } as const;
    this.#nics.add({ id: `nic${number}`, endpoint, state, name, mac: undefined, told: undefined, isElsewhere: false });
  }

  #free(): Nic[] {
    return [...this.#nics].filter(({ state }) => state.kind === "left");
  }

  async #rejoin(nic: Nic, index: number, signal: AbortSignal): Promise<void> {
    const before = nic.state;
    // It is not to be taken away meanwhile.
    nic.state = { kind: "joined", index };
    nic.isElsewhere = true;
    nic.told = undefined;
    try {
      await nic.endpoint.join(index, signal);
    } catch (thrown) {
      nic.state = before;
      throw thrown;
    }
  }

  #joinedTo(index: number): Nic | undefined {
    return [...this.#nics].find(({ state }) => state.kind === "joined" && state.index === index);
  }

  /** Unless the guest knows it all. */
  async #tell(nic: Nic, entry: NetworkInterface, signal: AbortSignal): Promise<void> {
    const obstacle = obstacleTo(entry);
    if (obstacle !== undefined) throw notConnected(entry, obstacle);
    const { name, mtu, flags, addresses } = entry;
    const mac = entry.mac === "" ? (nic.mac ?? randomMac()) : entry.mac;
    const telling = JSON.stringify([name, mac, mtu, flags, addresses]);
    if (nic.told === telling) return;
    // The guest tells interfaces apart by their MAC addresses, which those of one ipvlan's parent share.
    const twin = [...this.#nics].find((other) => other !== nic && other.mac === mac);
    if (twin !== undefined) throw notConnected(entry, `interface ${twin.name} has its MAC address ${mac} too`);
    const { isElsewhere, mac: macBefore } = nic;
    const formerHwAddr = macBefore !== undefined && (isElsewhere || macBefore !== mac) ? macBefore : "";
    if (nic.mac === undefined) {
      await this.#devices.addDevice({ kind: "nic", id: nic.id, tapFds: [nic.endpoint.tap.fd], mac }, signal);
      nic.mac = mac;
      nic.endpoint.tap[Symbol.dispose]();
    }
    await nic.endpoint.setMtu(mtu, signal);
    // It may be joined to yet another one while the guest is told.
    nic.isElsewhere = false;
    nic.told = telling;
    // Some of them go with what changes here.
    this.#toldRoutes = undefined;
    try {
      const IPAddresses = addresses.map(wireAddress);
      const told = { device: name, name, IPAddresses, mtu: BigInt(mtu), hwAddr: mac, rawFlags: flags, formerHwAddr };
      await this.#guest.updateInterface({ interface: told }, { signal });
    } catch (thrown) {
      nic.isElsewhere ||= isElsewhere;
      nic.told = undefined;
      throw thrown;
    }
    nic.mac = mac;
    nic.name = name;
    const event = macBefore === undefined ? "interface connected" : "interface changed";
    this.#log.info(event, { interface: name, mac, tap: nic.endpoint.tapName });
  }

  async #remove(nic: Nic, signal: AbortSignal): Promise<void> {
    nic.state = { kind: "leaving" };
    if (nic.mac !== undefined) await this.#devices.removeDevice(nic.id, signal);
    await nic.endpoint[Symbol.asyncDispose]();
    this.#nics.delete(nic);
    this.#log.info("interface removed", { interface: nic.name });
  }

  /** Unless the guest knows them all. */
  async #configureRoutes(view: RoutingView, signal: AbortSignal): Promise<void> {
    const plugged = new Set([...this.#nics].flatMap(({ name, mac }) => (mac === undefined ? [] : [name])));
    const connected = (device: string) => device === "lo" || plugged.has(device);
    const routes = view.routes.filter((route) => devicesOf(route).every(connected));
    const neighbours = view.neighbours.filter((entry) => connected(entry.device));
    // Time passes without a change.
    const telling = JSON.stringify([routes.map((route) => ({ ...route, expiresS: 0 })), neighbours]);
    if (telling === this.#toldRoutes) return;
    this.#toldRoutes = undefined;
    const tables = [...new Set([RT_TABLE_MAIN, ...routes.map(({ table }) => table)])];
    // Those that have no routes any more are emptied.
    this.#tables = [...new Set([...this.#tables, ...tables])];
    await this.#guest.updateRoutes(
      { routes: { Routes: routes.map(wireRoute) }, tables: [...this.#tables] },
      { signal },
    );
    this.#tables = tables;
    const ARPNeighbors = neighbours.map(wireNeighbour);
    if (ARPNeighbors.length > 0) await this.#guest.addARPNeighbors({ neighbors: { ARPNeighbors } }, { signal });
    this.#toldRoutes = telling;
  }

  /** Unless the guest knows them all. */
  async #configureRules({ rules }: RoutingView, signal: AbortSignal): Promise<void> {
    const telling = JSON.stringify(rules);
    if (telling === this.#toldRules) return;
    this.#toldRules = undefined;
    const wanted = new Set(rules.map((rule) => JSON.stringify(rule)));
    const gone = this.#rules.filter((rule) => !wanted.has(JSON.stringify(rule)));
    this.#rules = [...rules, ...gone];
    await this.#guest.updateRules({ rules: rules.map(wireRule), gone: gone.map(wireRule) }, { signal });
    this.#rules = rules;
    this.#toldRules = telling;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#joining;
    for (const { endpoint } of this.#nics) await endpoint[Symbol.asyncDispose]();
    this.#nics.clear();
  }
}

/** For good, or it could not be taken away before. */
function isOverdue({ state }: Nic): boolean {
  return state.kind === "leaving" || (state.kind === "left" && performance.now() >= state.at + INTERFACE_GONE_MS);
}

function notConnected({ name }: NetworkInterface, why: string): HearthError {
  return new HearthError("unimplemented", `connect interface ${name}: ${why}`);
}

/** Locally administered, unicast. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
