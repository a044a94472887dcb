/** OCI bundles for tests: a busybox root file system and the config.json that `spec` writes, with a test's own changes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { STARTER_SPEC } from "../../src/cli/runtime/starter-spec.ts";
import { makeRootfs } from "./busybox.ts";

/** What a test asks for; everything else is what `spec` writes. */
export interface BundleOptions {
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly cwd?: string;
  readonly terminal?: boolean;
  readonly hostname?: string;
  /** Replaces members of the configuration, one level deep: `{ linux: { resources: … } }` keeps the namespaces. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/** The configuration that `makeBundle` writes. */
export function bundleConfig(options: BundleOptions): Record<string, unknown> {
  const { args, env = ["PATH=/bin:/usr/bin", "TERM=xterm"], cwd = "/", terminal = false } = options;
  const base: Record<string, unknown> = {
    ...STARTER_SPEC,
    process: { ...STARTER_SPEC.process, args, env, cwd, terminal },
    root: { path: "rootfs" },
    hostname: options.hostname ?? "hearth-test",
  };
  for (const [name, value] of Object.entries(options.config ?? {})) {
    const old = base[name];
    base[name] = isObject(old) && isObject(value) ? { ...old, ...value } : value;
  }
  return base;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Makes the bundle in `dir` and returns `dir`. */
export async function makeBundle(dir: string, options: BundleOptions): Promise<string> {
  mkdirSync(dir, { recursive: true });
  await makeRootfs(join(dir, "rootfs"));
  writeFileSync(join(dir, "config.json"), JSON.stringify(bundleConfig(options), undefined, 2));
  return dir;
}
