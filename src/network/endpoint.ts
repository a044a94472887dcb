/**
 * Connects an interface of a network namespace to a VM, as Kata's tcfilter does: a tap beside it, and two tc filters that
 * redirect every packet of the one to the other. The guest's interface takes over the MAC address, addresses and routes.
 */
import { readFileSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { NETWORK_COMMAND_TIMEOUT_MS } from "../limits.ts";
import type { OwnedFd } from "../sys/fd.ts";
import { interfaceIndex } from "../sys/interface-index.ts";
import { inNetns } from "../sys/namespace.ts";
import { runProcess } from "../sys/run-process.ts";
import { openTap } from "../sys/tap.ts";
import { type InterfacesView, isOrphanedRedirect, type NetworkInterface, parseInterfaces } from "./interface-view.ts";
import type { RoutingText } from "./routing-view.ts";

/** A tap joined to an interface. Disposing it removes tap and filters; QEMU must have closed its descriptor or be gone. */
export interface NetworkEndpoint extends AsyncDisposable {
  readonly tapName: string;
  /** For QEMU; close it (dispose) once QEMU has its own copy. */
  readonly tap: OwnedFd;
  /** Joins the tap, whose interface has gone, to the one of this number. */
  join(index: number, signal: AbortSignal): Promise<void>;
  setMtu(mtu: number, signal: AbortSignal): Promise<void>;
}

const TAP_PREFIX = "hearth";
/** Of a new one. */
const TAP_MTU = 1500;

/** True for an interface that we make ourselves. */
export function isTapName(name: string): boolean {
  return name.startsWith(TAP_PREFIX) && /^\d+$/.test(name.slice(TAP_PREFIX.length));
}

/**
 * Interfaces but loopback, each with its index: one that replaces another may have its name. Cheap, starts no process. Fails
 * with not-found for a path that is no namespace.
 */
export function interfaceIndices(netns: string): ReadonlyMap<string, number> {
  try {
    return inNetns(netns, () => {
      const names = readFileSync("/proc/thread-self/net/dev", "utf8")
        .split("\n")
        .slice(2)
        .map((line) => line.split(":")[0]?.trim() ?? "")
        .filter((name) => name !== "" && name !== "lo");
      return new Map(
        names.flatMap((name) => {
          const index = interfaceIndex(name);
          return index === undefined ? [] : [[name, index] as const];
        }),
      );
    });
  } catch (cause) {
    throw toHearthError(cause, `read network namespace ${netns}`);
  }
}

/** Fails with unimplemented for an address that the guest cannot have. */
export async function readInterfaces(netns: string, signal: AbortSignal): Promise<InterfacesView> {
  return parseInterfaces(await run(netns, ["ip", "-json", "-details", "address", "show"], signal));
}

/** For `parseRouting`. */
export async function readRouting(netns: string, signal: AbortSignal): Promise<RoutingText> {
  const ip = (...args: string[]) => run(netns, ["ip", "-json", ...args], signal);
  const [routes4, routes6, rules4, rules6, neighbours] = await Promise.all([
    ip("-N", "-4", "route", "show", "table", "all"),
    ip("-N", "-6", "route", "show", "table", "all"),
    ip("-N", "-details", "-4", "rule", "show"),
    ip("-N", "-details", "-6", "rule", "show"),
    ip("neigh", "show", "nud", "permanent"),
  ]);
  return { routes4, routes6, rules4, rules6, neighbours };
}

/** Makes the tap and the filters; nothing of it is left when this fails. `tapNumber` makes the tap's name unique in the namespace. */
export async function connectInterface(
  netns: string,
  source: Pick<NetworkInterface, "index" | "mtu">,
  tapNumber: number,
  signal: AbortSignal,
): Promise<NetworkEndpoint> {
  const tapName = `${TAP_PREFIX}${tapNumber}`;
  await using undo = new AsyncDisposableStack();
  const endpoint = undo.use(new Endpoint(netns, tapName));
  await Promise.all([
    run(netns, ["ip", "link", "set", "dev", tapName, "up"], signal),
    run(netns, ["tc", "qdisc", "add", "dev", tapName, "ingress"], signal),
  ]);
  await endpoint.setMtu(source.mtu, signal);
  await endpoint.join(source.index, signal);
  undo.move();
  return endpoint;
}

class Endpoint implements NetworkEndpoint {
  readonly tapName: string;
  readonly tap: OwnedFd;
  readonly #netns: string;
  #mtu = TAP_MTU;
  /** The interface that has our filters, as iproute2 knows it by its number: its name may change. */
  #joined: string | undefined;

  constructor(netns: string, tapName: string) {
    this.#netns = netns;
    this.tapName = tapName;
    this.tap = inNetns(netns, () => openTap(tapName));
  }

  async setMtu(mtu: number, signal: AbortSignal): Promise<void> {
    if (mtu === this.#mtu) return;
    await run(this.#netns, ["ip", "link", "set", "dev", this.tapName, "mtu", String(mtu)], signal);
    this.#mtu = mtu;
  }

  async join(index: number, signal: AbortSignal): Promise<void> {
    const joined = `if${index}`;
    await addIngress(this.#netns, joined, signal);
    const commands = [
      redirect(joined, this.tapName),
      // The one that leads to the interface before.
      `filter del dev ${this.tapName} parent ffff:`,
      redirect(this.tapName, joined),
    ];
    try {
      await run(this.#netns, ["tc", "-batch", "-"], signal, `${commands.join("\n")}\n`);
    } catch (thrown) {
      await removeIngress(this.#netns, joined);
      throw thrown;
    }
    this.#joined = joined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.tap[Symbol.dispose]();
    if (this.#joined !== undefined) await removeIngress(this.#netns, this.#joined);
  }
}

function redirect(from: string, to: string): string {
  return `filter add dev ${from} parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev ${to}`;
}

/** One that an owner left who was killed is replaced: everything it redirected to is gone. Another's is an error. */
async function addIngress(netns: string, device: string, signal: AbortSignal): Promise<void> {
  const add = ["tc", "qdisc", "add", "dev", device, "ingress"] as const;
  try {
    await run(netns, add, signal);
  } catch (thrown) {
    const filters = await run(netns, ["tc", "-json", "filter", "show", "dev", device, "ingress"], signal);
    if (!isOrphanedRedirect(filters)) throw thrown;
    await removeIngress(netns, device);
    await run(netns, add, signal);
  }
}

/** The interface or the whole namespace may be gone already. */
async function removeIngress(netns: string, device: string): Promise<void> {
  const signal = AbortSignal.timeout(NETWORK_COMMAND_TIMEOUT_MS);
  await run(netns, ["tc", "qdisc", "del", "dev", device, "ingress"], signal).catch(() => {});
}

async function run(
  netns: string,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
  input?: string,
): Promise<string> {
  const options = { netns, signal, timeoutMs: NETWORK_COMMAND_TIMEOUT_MS, ...(input === undefined ? {} : { input }) };
  const result = await runProcess(argv, options);
  if (result.status.kind === "exited" && result.status.code === 0) return result.stdout;
  throw new HearthError("internal", `${argv.join(" ")}: ${result.stderr.trim()}`, { facts: { netns } });
}
