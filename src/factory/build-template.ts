/** Makes a template: boots a VM, has it rehearsed and saved, and publishes the files. One at a time on a host. */

import { existsSync, statfsSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { formatVersion, probeQemuVersion } from "../hypervisor/qemu/version.ts";
import { TEMPLATE_LOCK_TIMEOUT_MS, TEMPLATE_ROOM_MIB } from "../limits.ts";
import { silentLog } from "../log.ts";
import { templateLock } from "../paths.ts";
import { type FileLock, lock } from "../sys/lock.ts";
import { makePrivateDirectory } from "../sys/private-directory.ts";
import { processExit } from "../sys/process-identity.ts";
import { collectOrphans } from "../vm/collect.ts";
import {
  findTemplate,
  listTemplates,
  makeHalf,
  publishTemplate,
  removeHalves,
  removeTemplate,
  TemplateError,
  type TemplateFiles,
  templateKind,
} from "../vm/template-store.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { type LaunchOptions, launchSandbox } from "./launch.ts";

export interface StoreOptions extends Pick<LaunchOptions, "runDir" | "log"> {
  readonly templateDir: string;
}

export interface BuildOptions
  extends StoreOptions,
    Pick<LaunchOptions, "logLevel" | "onStep" | "argv" | "kill" | "failAt"> {
  /** Make it anew though there is a good one. Default false. */
  readonly force?: boolean;
}

/**
 * The template for VMs of this configuration, made when there is none that can be used; those that no VM of this hearth,
 * guest and QEMU can be made of are removed. "built" tells whether it was. Nothing half-made is left when this fails.
 */
export async function ensureTemplate(
  options: BuildOptions,
  config: VmConfig,
  signal: AbortSignal,
): Promise<{ readonly files: TemplateFiles; readonly built: boolean }> {
  const { templateDir, force = false } = options;
  const found = force ? undefined : tryFind(templateDir, config);
  if (found !== undefined) return { files: found, built: false };
  using _lock = await lockTemplates(options, signal);
  // Somebody else may have made it while we waited.
  const madeMeanwhile = force ? undefined : tryFind(templateDir, config);
  if (madeMeanwhile !== undefined) return { files: madeMeanwhile, built: false };
  removeOutdated(templateDir, config);
  await build(options, config, signal);
  return { files: findTemplate(templateDir, config).files, built: true };
}

/** Removes every template and whatever an interrupted init left; clones go on. Returns the identities of those removed. */
export async function destroyTemplates(options: StoreOptions, signal: AbortSignal): Promise<string[]> {
  const { templateDir } = options;
  if (!existsSync(templateDir)) return [];
  using _lock = await lockTemplates(options, signal);
  const identities = listTemplates(templateDir).map(({ identity }) => identity);
  for (const identity of identities) removeTemplate(templateDir, identity);
  return identities;
}

/**
 * Waits for whoever makes or removes templates, then clears away what those who were killed at it have left, files and
 * VMs. The lock ends with its process, whatever kills it.
 */
async function lockTemplates(
  { templateDir, runDir, log = silentLog }: StoreOptions,
  signal: AbortSignal,
): Promise<FileLock> {
  makePrivateDirectory(templateDir);
  const held = await lock(templateLock(templateDir), { signal, timeoutMs: TEMPLATE_LOCK_TIMEOUT_MS });
  try {
    removeHalves(templateDir);
    await collectOrphans(runDir, log);
    return held;
  } catch (thrown) {
    held.release();
    throw thrown;
  }
}

function tryFind(templateDir: string, config: VmConfig): TemplateFiles | undefined {
  try {
    return findTemplate(templateDir, config).files;
  } catch (thrown) {
    if (thrown instanceof TemplateError) return undefined;
    throw thrown;
  }
}

function removeOutdated(templateDir: string, config: VmConfig): void {
  for (const { identity, state } of listTemplates(templateDir, config)) {
    if (state === "outdated") removeTemplate(templateDir, identity);
  }
}

/** A guest that finds no page to write to ends QEMU by SIGBUS, which tells nobody why. */
function checkRoom(templateDir: string, { memoryMib }: VmConfig): void {
  const { bavail, bsize } = statfsSync(templateDir);
  const freeMib = Math.floor((bavail * bsize) / MIB);
  const neededMib = Math.min(memoryMib, TEMPLATE_ROOM_MIB);
  if (freeMib >= neededMib) return;
  throw new HearthError(
    "resource-exhausted",
    `make template in ${templateDir}: ${freeMib} MiB free, ${neededMib} needed`,
    {
      hint: "set [factory] template_path to a larger tmpfs",
    },
  );
}

const MIB = 1024 * 1024;

async function build(options: BuildOptions, config: VmConfig, signal: AbortSignal): Promise<void> {
  const { templateDir, runDir, log = silentLog } = options;
  checkRoom(templateDir, config);
  const qemuVersion = formatVersion(await probeQemuVersion(config.qemuPath, signal));
  const half = makeHalf(templateDir);
  try {
    const template = { kind: templateKind(config), memory: half.memory, state: half.state };
    const launch = { ...options, mode: "capture", leaseMs: 1, template } as const;
    const { vmId, ready } = await launchSandbox(launch, config, signal);
    // It removes the directory of its VM in the end.
    await processExit(ready.sandbox, signal);
    publishTemplate(templateDir, half, config, qemuVersion);
    log.info("template made", { vm: vmId, runDir, bootMs: ready.bootMs });
  } catch (thrown) {
    removeHalves(templateDir);
    throw toHearthError(thrown, "make template");
  }
}
