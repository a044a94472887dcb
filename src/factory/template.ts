/** The template factory: clones one VM of a saved one by starting a sandbox process for it. It makes no template itself. */
import { describeError, HearthError } from "../errors.ts";
import { type FoundTemplate, findTemplate, markBroken } from "../vm/template-store.ts";
import type { BaseFactory, BaseVm } from "./base-factory.ts";
import { baseVmOf } from "./direct.ts";
import { type LaunchedSandbox, type LaunchOptions, launchSandbox } from "./launch.ts";

/** Steps that fail when what was saved is no good; src/sandbox/steps.ts. */
const STEPS_OF_TEMPLATE: ReadonlySet<unknown> = new Set(["restore", "resume", "wait-for-agent", "create-sandbox"]);

export interface TemplateFactory extends BaseFactory {
  /** The clone, made by this factory, was no good where a booted VM was: its template is marked as broken. */
  blame(clone: BaseVm, reason: string): void;
}

/**
 * In mode "leased" the VM runs, in mode "idle" it is paused. Fails with TemplateError when there is no template of that
 * identity, it is outdated or broken; one that no clone can be made of is marked as broken.
 */
export function createTemplateFactory(templateDir: string, options: LaunchOptions): TemplateFactory {
  const templates = new WeakMap<BaseVm, FoundTemplate>();
  return {
    getBaseVm: async (config, signal) => {
      const template = findTemplate(templateDir, config);
      const launched = await launchClone(
        template,
        options,
        () => launchSandbox({ ...options, template: template.files }, config, signal),
        signal,
      );
      const clone = baseVmOf(launched, "template");
      templates.set(clone, template);
      return clone;
    },
    blame: (clone, reason) => {
      const template = templates.get(clone);
      if (template !== undefined) condemn(template, options, reason);
    },
  };
}

async function launchClone(
  template: FoundTemplate,
  options: LaunchOptions,
  launch: () => Promise<LaunchedSandbox>,
  signal: AbortSignal,
): Promise<LaunchedSandbox> {
  try {
    return await launch();
  } catch (thrown) {
    const isItsFault = thrown instanceof HearthError && STEPS_OF_TEMPLATE.has(thrown.facts["step"]);
    if (isItsFault && !signal.aborted) condemn(template, options, thrown.message);
    throw thrown;
  }
}

/** A mark that cannot be made costs the next clone the same failure, and no container anything. */
function condemn(template: FoundTemplate, { log }: LaunchOptions, reason: string): void {
  const { state } = template.files;
  try {
    markBroken(template, reason);
    log?.info("template marked as broken", { state });
  } catch (thrown) {
    log?.error("template not marked as broken", { state, error: describeError(thrown) });
  }
}
