/** The AppArmor profiles that a VM's kernel has been given: each once, and anew when the host's has changed. */
import { createHash } from "node:crypto";
import type { AgentClient } from "../agent/client/client.ts";
import { HearthError } from "../errors.ts";
import { AGENT_CALL_TIMEOUT_MS } from "../limits.ts";
import type { Process } from "../oci/spec.ts";
import { type GuestProfile, type LabelledProcess, notApplied } from "./process-labels.ts";
import type { Steps } from "./steps.ts";

interface Loading {
  readonly digest: string;
  /** Resolves with why the guest cannot have it, if so. */
  readonly refused: Promise<string | undefined>;
}

export class GuestProfiles {
  readonly #agent: AgentClient;
  readonly #steps: Steps;
  /** By name. */
  readonly #loaded = new Map<string, Loading>();

  constructor(agent: AgentClient, steps: Steps) {
    this.#agent = agent;
    this.#steps = steps;
  }

  /** Loads what the process names. Where the guest's kernel does not take it, returns the process without, and warns. */
  async load({ process, profiles }: LabelledProcess, warnings: string[]): Promise<Process> {
    for (const profile of profiles) {
      const refused = await this.#once(profile);
      if (refused === undefined) continue;
      const { apparmorProfile = profile.name, ...rest } = process;
      warnings.push(notApplied(apparmorProfile, refused));
      return rest;
    }
    return process;
  }

  async #once({ name, binary }: GuestProfile): Promise<string | undefined> {
    const digest = createHash("sha256").update(binary).digest("hex");
    const known = this.#loaded.get(name);
    const loading = known?.digest === digest ? known : { digest, refused: this.#load(binary) };
    this.#loaded.set(name, loading);
    try {
      return await loading.refused;
    } catch (thrown) {
      if (this.#loaded.get(name) === loading) this.#loaded.delete(name);
      throw thrown;
    }
  }

  async #load(binary: Uint8Array): Promise<string | undefined> {
    return await this.#steps.run("load-apparmor-profile", AGENT_CALL_TIMEOUT_MS, async (signal) => {
      try {
        await this.#agent.agent.loadApparmorProfile({ binary }, { signal });
        return undefined;
      } catch (thrown) {
        if (thrown instanceof HearthError && thrown.code === "unimplemented") return thrown.message;
        throw thrown;
      }
    });
  }
}
