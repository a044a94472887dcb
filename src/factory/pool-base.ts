/** What the pool makes its VMs with: clones where templates are enabled, whose template it makes itself; else booted ones. */
import { describeError } from "../errors.ts";
import { TEMPLATE_RETRY_MS } from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { identityDigest } from "../vm/vm-config.ts";
import type { BaseFactory } from "./base-factory.ts";
import { type BuildOptions, ensureTemplate } from "./build-template.ts";
import { createDirectFactory } from "./direct.ts";
import { fromTemplate } from "./factory.ts";
import type { LaunchOptions } from "./launch.ts";
import { createTemplateFactory } from "./template.ts";

/**
 * Makes the templates that VMs are cloned of, when they are needed and not there: one at a time, and after a failure not
 * again for a while, so that a template that cannot be made costs the pool no more than one boot a minute.
 */
export class TemplateMaker {
  readonly #options: BuildOptions;
  readonly #log: Log;
  readonly #retryMs: number;
  readonly #making = new Map<string, Promise<boolean>>();
  readonly #failedAt = new Map<string, number>();

  constructor(options: BuildOptions, retryMs = TEMPLATE_RETRY_MS) {
    this.#options = options;
    this.#log = options.log ?? silentLog;
    this.#retryMs = retryMs;
  }

  get templateDir(): string {
    return this.#options.templateDir;
  }

  /** Resolves when there is a template, was made one, or there will be none for now; rejects when `signal` aborts. */
  async ensure(config: VmConfig, signal: AbortSignal): Promise<void> {
    const identity = identityDigest(config);
    const failedAt = this.#failedAt.get(identity);
    if (failedAt !== undefined && performance.now() - failedAt < this.#retryMs) return;
    let making = this.#making.get(identity);
    if (making === undefined) {
      making = this.#make(identity, config, signal).finally(() => this.#making.delete(identity));
      this.#making.set(identity, making);
    }
    await making;
    signal.throwIfAborted();
  }

  async #make(identity: string, config: VmConfig, signal: AbortSignal): Promise<boolean> {
    try {
      const { built } = await ensureTemplate(this.#options, config, signal);
      this.#failedAt.delete(identity);
      return built;
    } catch (thrown) {
      if (!signal.aborted) {
        this.#failedAt.set(identity, performance.now());
        this.#log.error("make template", { error: describeError(thrown) });
      }
      return false;
    }
  }
}

/** Its VMs come paused, in mode "idle". `maker` undefined: templates are not enabled. */
export function createPoolBase(maker: TemplateMaker | undefined, options: Omit<LaunchOptions, "mode">): BaseFactory {
  const idle = { ...options, mode: "idle" } as const;
  const direct = createDirectFactory(idle);
  if (maker === undefined) return direct;
  const template = createTemplateFactory(maker.templateDir, idle);
  return {
    getBaseVm: async (config, signal) => {
      await maker.ensure(config, signal);
      const clone = await fromTemplate(template, options.log ?? silentLog, config, signal);
      return clone ?? (await direct.getBaseVm(config, signal));
    },
  };
}
