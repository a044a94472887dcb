/** Named steps of a sandbox's life: timed for benchmarks and logs, bounded, and each can be made to fail by a test. */
import { DEFAULT_CONFIG } from "../config/defaults.ts";
import { DeadlineError, HearthError, toHearthError } from "../errors.ts";
import { STEP_TIMEOUT_MS_MAX } from "../limits.ts";
import { START_FAILURE } from "../util/start-failure.ts";

export const SANDBOX_STEPS = [
  "make-directory",
  "share-directory",
  "launch-qemu",
  "restore",
  "wait-for-agent",
  "create-sandbox",
  "rehearse",
  "close-agent",
  "pause",
  "save",
  "write-record",
  "listen",
  "move-to-cgroup",
  "resume",
  "repair",
  "add-resources",
  "connect-network",
  "load-apparmor-profile",
  "expose",
  "mount-volumes",
  "mirror-volume",
  "plug-disks",
  "create-container",
  "start-container",
  "exec-process",
] as const;
export type SandboxStep = (typeof SANDBOX_STEPS)[number];

export function isSandboxStep(name: string): name is SandboxStep {
  return SANDBOX_STEPS.some((step) => step === name);
}

/** In the runtime's environment: the step that is made to fail, for tests that look for what a failure leaves behind. */
export const FAULT_VARIABLE = "HEARTH_FAIL_AT";

export interface StepTime {
  readonly step: SandboxStep;
  readonly durationUs: number;
}

export interface Steps {
  /**
   * Runs `work` with a signal that aborts at the deadline or with the options' signal. A failure says which step it was,
   * or what cannot be started, in runc's words;
   * the duration goes to `onStep`. `timeoutMs` 1 to 600000, before it is stretched.
   */
  run<T>(step: SandboxStep, timeoutMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

export interface StepsOptions {
  readonly onStep: (time: StepTime) => void;
  readonly onStart?: (step: SandboxStep) => void;
  /** The step that fails in place of its work. */
  readonly failAt?: string | undefined;
  /** Once it aborts, the step that runs and all that follow fail with its reason. */
  readonly signal?: AbortSignal;
  /** Every deadline is so many times longer, up to STEP_TIMEOUT_MS_MAX. At least 1; default 1. */
  readonly stretch?: number;
}

/**
 * How much longer a guest is waited for than one that boots in the default time: an operator who gives it more for its
 * boot, on a host that is slow, means all of its steps.
 */
export function stretchOf(bootTimeoutMs: number): number {
  return Math.max(1, bootTimeoutMs / DEFAULT_CONFIG.hypervisor.boot_timeout_ms);
}

export function createSteps(options: StepsOptions): Steps {
  return {
    async run(step, baseTimeoutMs, work) {
      options.onStart?.(step);
      const timeoutMs = Math.min(Math.round(baseTimeoutMs * (options.stretch ?? 1)), STEP_TIMEOUT_MS_MAX);
      const startedAt = performance.now();
      const timeout = AbortSignal.timeout(timeoutMs);
      const signal = options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
      try {
        options.signal?.throwIfAborted();
        if (options.failAt === step) throw new HearthError("internal", `fault injected by ${FAULT_VARIABLE}`);
        return await work(signal);
      } catch (thrown) {
        // What was interrupted may say so in its own words.
        const cause = options.signal?.aborted === true ? options.signal.reason : thrown;
        if (timeout.aborted) throw new DeadlineError(step, timeoutMs, { cause });
        const error = toHearthError(cause, step);
        const isWhole = [step, START_FAILURE].some((start) => error.message.startsWith(start));
        throw isWhole
          ? error
          : new HearthError(error.code, `${step}: ${error.message}`, {
              cause: error.cause,
              facts: error.facts,
              ...(error.hint === undefined ? {} : { hint: error.hint }),
            });
      } finally {
        options.onStep({ step, durationUs: Math.round((performance.now() - startedAt) * 1000) });
      }
    },
  };
}
