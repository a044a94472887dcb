/** The template factory: clones one VM of a saved one by starting a sandbox process for it. It makes no template itself. */
import { HearthError } from "../errors.ts";
import { type FoundTemplate, findTemplate, markBroken } from "../vm/template-store.ts";
import type { BaseFactory } from "./base-factory.ts";
import { baseVmOf } from "./direct.ts";
import { type LaunchedSandbox, type LaunchOptions, launchSandbox } from "./launch.ts";

/** Steps that fail when what was saved is no good; src/sandbox/steps.ts. */
const STEPS_OF_TEMPLATE: ReadonlySet<unknown> = new Set(["restore", "resume", "wait-for-agent", "create-sandbox"]);

/**
 * In mode "leased" the VM runs, in mode "idle" it is paused. Fails with TemplateError when there is no template of that
 * identity, it is outdated or broken; one that no clone can be made of is marked as broken.
 */
export function createTemplateFactory(templateDir: string, options: LaunchOptions): BaseFactory {
  return {
    getBaseVm: async (config, signal) => {
      const template = findTemplate(templateDir, config);
      return baseVmOf(
        await launchClone(
          template,
          options,
          () => launchSandbox({ ...options, template: template.files }, config, signal),
          signal,
        ),
        "template",
      );
    },
  };
}

async function launchClone(
  template: FoundTemplate,
  { log }: LaunchOptions,
  launch: () => Promise<LaunchedSandbox>,
  signal: AbortSignal,
): Promise<LaunchedSandbox> {
  try {
    return await launch();
  } catch (thrown) {
    const isItsFault = thrown instanceof HearthError && STEPS_OF_TEMPLATE.has(thrown.facts["step"]);
    if (isItsFault && !signal.aborted) {
      log?.info("template marked as broken", { state: template.files.state });
      markBroken(template, thrown.message);
    }
    throw thrown;
  }
}
