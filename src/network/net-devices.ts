/** Moves interfaces of the host into a container's network namespace. Source: OCI runtime spec 1.3, config-linux.md#network-devices. */
import { HearthError } from "../errors.ts";
import { NETWORK_COMMAND_TIMEOUT_MS } from "../limits.ts";
import { runProcess } from "../sys/run-process.ts";
import { parseAddresses } from "./interface-view.ts";

export interface NetDevice {
  /** In this network namespace. */
  readonly name: string;
  /** In the container's. */
  readonly newName: string;
}

/**
 * Each keeps its MAC address, MTU and permanent addresses of global scope, and is up then. One that is moved stays moved when
 * another cannot be: it is the namespace's now, whose end sends it back or, when it is a virtual one, ends it.
 */
export async function moveNetDevices(devices: readonly NetDevice[], netns: string, signal: AbortSignal): Promise<void> {
  for (const { name, newName } of devices) {
    const shown = await ip(["-json", "address", "show", "dev", name, "scope", "global", "permanent"], { signal });
    await ip(["link", "set", "dev", name, "netns", netns, "name", newName], { signal });
    const commands = parseAddresses(shown).map(({ family, address, prefixLength }) => {
      // The address was in use before: nobody has to be asked whether it is taken.
      return `address add ${address}/${prefixLength} dev ${newName}${family === "v6" ? " nodad" : ""}`;
    });
    const input = [...commands, `link set dev ${newName} up`].join("\n");
    await ip(["-batch", "-"], { netns, input: `${input}\n`, signal });
  }
}

interface IpOptions {
  readonly netns?: string;
  readonly input?: string;
  readonly signal: AbortSignal;
}

async function ip(args: readonly string[], options: IpOptions): Promise<string> {
  const { exitCode, stdout, stderr } = await runProcess(["ip", ...args], {
    ...options,
    timeoutMs: NETWORK_COMMAND_TIMEOUT_MS,
  });
  if (exitCode !== 0) throw new HearthError("internal", `ip ${args.join(" ")}: ${stderr.trim()}`);
  return stdout;
}
