/**
 * Connects an interface of a network namespace to a VM, as Kata's tcfilter does: a tap beside it, and two tc filters that
 * redirect every packet of the one to the other. The guest's interface takes over the MAC address, addresses and routes.
 */
import { readFileSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { NETWORK_COMMAND_TIMEOUT_MS } from "../limits.ts";
import type { OwnedFd } from "../sys/fd.ts";
import { inNetns } from "../sys/namespace.ts";
import { runProcess } from "../sys/run-process.ts";
import { openTap } from "../sys/tap.ts";
import { type NetworkInterface, type NetworkView, parseNetworkView } from "./network-view.ts";

/** A connected interface. Disposing it removes tap and filters; QEMU must have closed its descriptor or be gone. */
export interface NetworkEndpoint extends AsyncDisposable {
  readonly source: NetworkInterface;
  readonly tapName: string;
  /** For QEMU; close it (dispose) once QEMU has its own copy. */
  readonly tap: OwnedFd;
}

/** Names of interfaces but loopback: cheap, starts no process. Fails with not-found for a path that is no namespace. */
export function interfaceNames(netns: string): string[] {
  let text: string;
  try {
    text = inNetns(netns, () => readFileSync("/proc/thread-self/net/dev", "utf8"));
  } catch (cause) {
    throw toHearthError(cause, `read network namespace ${netns}`);
  }
  return text
    .split("\n")
    .slice(2)
    .map((line) => line.split(":")[0]?.trim() ?? "")
    .filter((name) => name !== "" && name !== "lo");
}

/** Everything the guest has to take over. */
export async function readNetwork(netns: string, signal: AbortSignal): Promise<NetworkView> {
  const ip = (...args: string[]) => run(netns, ["ip", "-json", ...args], signal);
  const [addresses, routes4, routes6, neighbours] = await Promise.all([
    ip("-details", "address", "show"),
    ip("-4", "route", "show", "table", "main"),
    ip("-6", "route", "show", "table", "main"),
    ip("neigh", "show", "nud", "permanent"),
  ]);
  return parseNetworkView({ addresses, routes4, routes6, neighbours });
}

/** Makes the tap and the filters; nothing of it is left when this fails. `index` makes the tap's name unique in the namespace. */
export async function connectInterface(
  netns: string,
  source: NetworkInterface,
  index: number,
  signal: AbortSignal,
): Promise<NetworkEndpoint> {
  const tapName = `hearth${index}`;
  await using undo = new AsyncDisposableStack();
  const tap = undo.use(inNetns(netns, () => openTap(tapName)));
  await run(netns, ["ip", "link", "set", "dev", tapName, "mtu", String(source.mtu), "up"], signal);
  for (const [from, to] of [
    [source.name, tapName],
    [tapName, source.name],
  ] as const) {
    await run(netns, ["tc", "qdisc", "add", "dev", from, "ingress"], signal);
    undo.defer(() => removeQdisc(netns, from));
    await run(netns, redirect(from, to), signal);
  }
  const owned = undo.move();
  return { source, tapName, tap, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function redirect(from: string, to: string): [string, ...string[]] {
  const match = ["protocol", "all", "u32", "match", "u8", "0", "0"];
  const action = ["action", "mirred", "egress", "redirect", "dev", to];
  return ["tc", "filter", "add", "dev", from, "parent", "ffff:", ...match, ...action];
}

/** The interface or the whole namespace may be gone already. */
async function removeQdisc(netns: string, device: string): Promise<void> {
  const signal = AbortSignal.timeout(NETWORK_COMMAND_TIMEOUT_MS);
  await run(netns, ["tc", "qdisc", "del", "dev", device, "ingress"], signal).catch(() => {});
}

async function run(netns: string, argv: [string, ...string[]], signal: AbortSignal): Promise<string> {
  const result = await runProcess(argv, { netns, signal, timeoutMs: NETWORK_COMMAND_TIMEOUT_MS });
  if (result.status.kind === "exited" && result.status.code === 0) return result.stdout;
  throw new HearthError("internal", `${argv.join(" ")}: ${result.stderr.trim()}`, { facts: { netns } });
}
