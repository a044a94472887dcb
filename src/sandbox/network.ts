/** Gives the VM the interfaces of a network namespace, those that come and go later too, and the namespace the VM's localhost. */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError } from "../errors.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import type { Log } from "../log.ts";
import { interfaceIndices } from "../network/endpoint.ts";
import { InterfaceWatch } from "../network/interface-watch.ts";
import { ignoreArrivals } from "../sys/localhost.ts";
import { followInterfaces } from "./interface-follower.ts";
import { Interfaces } from "./interfaces.ts";
import { LocalhostRelay } from "./localhost-relay.ts";
import { relayNames } from "./name-relay.ts";

/** Of one namespace. */
interface Connected extends AsyncDisposable {
  readonly watch: InterfaceWatch;
  readonly interfaces: Interfaces;
}

export class SandboxNetwork implements AsyncDisposable {
  readonly #hypervisor: Hypervisor;
  readonly #agent: AgentClient;
  readonly #log: Log;
  readonly #closing = new AbortController();
  #connected: Connected | undefined;
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
    if (this.#connected !== undefined) return 0;
    this.#empty = interfaceIndices(netns).size === 0 ? { netns, loopbackNameServers } : undefined;
    if (this.#empty !== undefined) return 0;
    const connected = this.#open(netns);
    this.#connected = connected;
    const { watch, interfaces } = connected;
    const { added, failures } = await interfaces.settle(() => true, signal);
    if (failures.length > 0) throw failures[0];
    for (const address of loopbackNameServers) await this.#agent.agent.serveNames({ address }, { signal });
    const closing = this.#closing.signal;
    const following = [followInterfaces(watch, interfaces, this.#log, closing)];
    if (loopbackNameServers.length > 0) following.push(relayNames(this.#agent, watch.netns, this.#log, closing));
    this.#following = Promise.all(following);
    return added;
  }

  #open(netns: string): Connected {
    // From before the first look, so that nothing is missed in between.
    const watch = new InterfaceWatch(netns);
    const stack = new AsyncDisposableStack();
    stack.use(watch);
    try {
      stack.use(ignoreArrivals(watch.netns));
    } catch (thrown) {
      this.#log.info("a new interface may refuse connections at first", { error: describeError(thrown) });
    }
    const interfaces = stack.use(new Interfaces(this.#hypervisor, this.#agent.agent, watch.netns, this.#log));
    return { watch, interfaces, [Symbol.asyncDispose]: () => stack.disposeAsync() };
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#localhost?.[Symbol.asyncDispose]();
    await this.#following;
    await this.#connected?.[Symbol.asyncDispose]();
  }
}
