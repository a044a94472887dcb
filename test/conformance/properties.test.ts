/** docs/PROPERTIES.md: every property is in it, what it calls refused is refused, and what it calls applied has a case. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSpec, type Spec } from "../../src/oci/spec.ts";
import { checkRules } from "../../src/oci/spec-rules.ts";
import { toGuestSpec } from "../../src/sandbox/guest-spec.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { TOPICS } from "./topics.ts";

interface Row {
  readonly property: string;
  readonly where: string;
}

const ROWS: readonly Row[] = [
  ...readFileSync(join(import.meta.dir, "../../docs/PROPERTIES.md"), "utf8").matchAll(/^\| `(\S+)` +\| (\S.*?) *\|/gm),
].map(([, property = "", where = ""]) => ({ property, where }));
/** Every property of config.md and config-linux.md, version 1.3. */
const PROPERTIES = readFileSync(join(import.meta.dir, "../fixtures/oci-properties-1.3.txt"), "utf8")
  .trim()
  .split("\n");
const WHERES = ["guest", "host", "guest and host", "refused", "warning", "ignored"];
const withWhere = (...wheres: readonly string[]): string[] =>
  ROWS.filter(({ where }) => wheres.includes(where)).map(({ property }) => property);

test("every property is in the table, once, and nothing else", () => {
  const properties = ROWS.map(({ property }) => property);
  expect(properties.toSorted()).toEqual(PROPERTIES.toSorted());
  expect(ROWS.filter(({ where }) => !WHERES.includes(where))).toEqual([]);
});

/** A value for each property whose neighbours decide what happens to it; the others get what their name suggests. */
const VALUES: Readonly<Record<string, unknown>> = {
  vm: { kernel: { path: "/x" } },
};
/** What must stand beside a property for the configuration to be one. */
const BESIDE: Readonly<Record<string, object>> = {
  "mounts[]": { destination: "/m", type: "bind", source: "/", options: ["rbind"] },
  "linux.seccomp": {
    defaultAction: "SCMP_ACT_ALLOW",
    listenerPath: "/run/x.sock",
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
  },
};

/** A configuration that has the property. */
function configWith(property: string): Record<string, unknown> {
  const config = bundleConfig({ args: ["x"] });
  const path = property.split(".");
  let at = config;
  path.forEach((part, index) => {
    const beside = { ...BESIDE[path.slice(0, index + 1).join(".")] };
    const isLast = index === path.length - 1;
    const name = part === "*" ? "x" : part.replace("[]", "");
    const value: Record<string, unknown> = beside;
    if (isLast) at[name] = VALUES[property] ?? (name === "listenerPath" ? "/run/x.sock" : sample(name));
    else if (part.endsWith("[]")) at[name] = [value];
    else at[name] = { ...(index === 0 && typeof at[name] === "object" ? at[name] : {}), ...value };
    at = isLast ? at : part.endsWith("[]") ? value : recordOf(at[name]);
  });
  return config;
}

function recordOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw new Error("no object");
  return Object.assign(value);
}

function sample(name: string): unknown {
  const numbers = [
    "classID",
    "priority",
    "hcaHandles",
    "hcaObjects",
    "realtimeRuntime",
    "realtimePeriod",
    "secs",
    "nanosecs",
    "kernel",
    "kernelTCP",
  ];
  return numbers.includes(name) ? 5 : "x";
}

function apply(config: Record<string, unknown>): readonly string[] {
  const spec: Spec = parseSpec(JSON.stringify(config), "config.json");
  checkRules(spec, "config.json");
  return toGuestSpec(spec, {
    containerId: "c1",
    bundle: "/bundle",
    fileTypeOf: () => "directory",
    security: { hasSelinux: true, apparmorProfile: (name) => ({ name, binary: new Uint8Array() }) },
    modeInRoot: () => undefined,
    placeInRoot: (_root, path) => join("/", path),
    mountsBelow: () => [],
    mountFlags: () => [],
    tmpfsAt: () => undefined,
    hasDevice: () => true,
    containerOfPid: () => undefined,
    hasContainer: () => false,
  }).warnings;
}

/** The part of a property that messages name. */
const named = (property: string): string =>
  property
    .split(/\[\]|\.\*/)[0]
    ?.split(".")
    .slice(0, 3)
    .join(".") ?? property;

describe("refused", () => {
  test.each(withWhere("refused"))("%s", (property) => {
    const [first = ""] = named(property).split(".");
    const word = first === "mounts" ? "mount /m" : named(property).replace("listenerMetadata", "listener");
    const parent = word
      .split(".")
      .slice(0, word.startsWith("linux.resources.") ? 3 : 2)
      .join(".");
    expect(() => apply(configWith(property))).toThrow(parent);
  });
});

describe("warned of", () => {
  test.each(withWhere("warning"))("%s", (property) => {
    expect(apply(configWith(property))).toContainEqual(expect.stringContaining(property));
  });
});

describe("ignored", () => {
  test.each(withWhere("ignored"))("%s", (property) => {
    expect(apply(configWith(property))).toEqual([]);
  });
});

/** Applied, but not to be had in a case: why. */
const WITHOUT_CASE: Readonly<Record<string, string>> = {
  "linux.resources.memory.swappiness": "not in cgroup v2",
  "linux.resources.memory.disableOOMKiller": "not in cgroup v2",
  "linux.resources.memory.useHierarchy": "not in cgroup v2",
  "linux.netDevices": "runc 1.1.5 does not know it; test/e2e/net-devices.test.ts",
  "process.scheduler.priority": "real-time policies need a CPU budget that a shared guest has not",
  "process.scheduler.runtime": "as priority",
  "process.scheduler.deadline": "as priority",
  "process.scheduler.period": "as priority",
};

test("what is applied has a case in the suite, or a reason", () => {
  const set = new Set(TOPICS.flatMap(({ cases }) => cases.flatMap(({ config }) => pathsOf(config ?? {}, ""))));
  const base = new Set(pathsOf(bundleConfig({ args: [] }), ""));
  const untried = withWhere("guest", "host", "guest and host").filter(
    (property) => !set.has(property) && !base.has(property) && WITHOUT_CASE[property] === undefined,
  );
  expect(untried).toEqual([]);
  expect(Object.keys(WITHOUT_CASE).filter((property) => set.has(property))).toEqual([]);
});

/** Paths of all members, as the table writes them. */
function pathsOf(value: unknown, path: string): string[] {
  if (Array.isArray(value)) return [path, ...value.flatMap((item) => pathsOf(item, `${path}[]`))];
  if (typeof value !== "object" || value === null) return [path];
  const below = Object.entries(value).flatMap(([key, item]) => {
    // Its members are clocks, which the table does not list.
    const name = path === "linux.timeOffsets" ? "*" : key;
    return pathsOf(item, path === "" ? name : `${path}.${name}`);
  });
  return [path, ...below];
}
