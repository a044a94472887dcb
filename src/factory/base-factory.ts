/** The contract of every base factory: it produces a paused VM whose sandbox process is up and rehearsed. */
import type { ProcessIdentity } from "../sys/process-identity.ts";
import type { TemplateFiles } from "../vm/template-store.ts";
import type { VmConfig } from "../vm/vm-config.ts";

/** A VM that nobody has adopted yet. Whoever holds the token owns it, until the sandbox process's lease ends. */
export interface BaseVm {
  readonly vmId: string;
  /** The process that owns it. */
  readonly sandbox: ProcessIdentity;
  readonly sandboxSocket: string;
  readonly token: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly source: "direct" | "template" | "pool";
}

export interface BaseFactory {
  /** Fails with a HearthError that names the step; nothing is left behind on failure. */
  getBaseVm(config: VmConfig, signal: AbortSignal): Promise<BaseVm>;
}

/**
 * What a spawner writes as one JSON line to the standard input of `hearth sandbox`, which answers on file descriptor 3
 * with JSON lines: `{"step":…}` while it boots, then one `{"ready":…}` or `{"error":…}`.
 */
export interface SandboxLaunch {
  readonly vmId: string;
  readonly runDir: string;
  readonly config: VmConfig;
  /**
   * "leased": ready means leased with `token` for `leaseMs`, running. "idle": ready means rehearsed and paused, no lease.
   * "capture": ready means that the rehearsed VM was saved to `template`; the VM then ends.
   */
  readonly mode: "leased" | "idle" | "capture";
  /** The saved VM to clone instead of booting one; in mode "capture" the files to make. */
  readonly template?: TemplateFiles;
  readonly token: string;
  readonly leaseMs: number;
  readonly logLevel: "debug" | "info" | "warn" | "error";
  /** Test only: name of the step that fails; see src/sandbox/steps.ts. */
  readonly failAt?: string;
}

export interface SandboxReady {
  readonly sandbox: ProcessIdentity;
  readonly socket: string;
  readonly qemuPid: number;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly bootMs: number;
}
