/** What the agent itself must know of a container's OCI configuration, which otherwise goes to crun as it came. */
import { posix } from "node:path";
import { HearthError } from "../../errors.ts";
import { parseOciJson, stringifyOciJson } from "../../oci/json.ts";
import { CONTAINER_NAMESPACE_PREFIX } from "../../oci/pod.ts";
import { checkExecutable } from "./executable-by.ts";
import { hidesPasswd } from "./home.ts";
import { isRecord, type JsonRecord, listAt, recordAt } from "./json-record.ts";
import { mountAttributes } from "./mount-attributes.ts";
import type { Json } from "./oci-from-grpc.ts";
import { type ProcessAttributes, processAttributes } from "./process-attributes.ts";
import type { StartHook } from "./start-hooks.ts";
import { type TimeNamespace, timeNamespaceOf } from "./time-namespace.ts";
import { bindSysfs, PORTS_SYSCTL } from "./user-namespace.ts";

export interface OciConfig {
  /** For crun. */
  readonly json: string;
  readonly terminal: boolean;
  /** args[0], for messages. */
  readonly program: string | undefined;
  /** Absolute, below the cgroup root. */
  readonly cgroupPath: string;
  readonly hasPoststart: boolean;
  readonly hasPoststop: boolean;
  readonly startHooks: readonly StartHook[];
  /** Paths of createContainer hooks, in the guest. */
  readonly createHooks: readonly string[];
  /** The container has a pid namespace of its own, so its init takes every other process with it. */
  readonly ownPidNamespace: boolean;
  /** Which crun is not told of. */
  readonly timeNamespace: TimeNamespace | undefined;
  /** Of `linux.sysctl`, what belongs to the network: the VM's namespace is none that crun makes, so it refuses them. */
  readonly networkSysctls: Readonly<Record<string, unknown>>;
  /** `sysfs` of the changes must be mounted. */
  readonly bindsSysfs: boolean;
  /** The whole of it when it mentions huge pages. */
  readonly withHugepages: JsonRecord | undefined;
  /** Sets on the init process and on its mounts what crun does not. */
  readonly applyAttributes: ProcessAttributes["apply"];
  /** See checkExecutable; of the init process, or of another one. */
  readonly checkProgram: (root: string, process?: JsonRecord) => void;
}

/** Changes to a configuration before crun gets it. */
export interface OciChanges {
  /** Where the process says nothing of it; see withProcessDefaults. */
  readonly openFilesHardLimit?: number;
  /** Completes a process with what depends on the root directory it will have. */
  readonly completeIn?: (root: string, process: JsonRecord) => JsonRecord;
  /** Path of a pid namespace to join instead of making one. */
  readonly pidNamespace?: string | undefined;
  /** The pid in the guest of the container whose namespace another one joins; fails when there is none. */
  readonly initPidOf?: (containerId: string) => number;
  /** Annotations for a configuration with startContainer hooks. */
  readonly startHookAnnotations?: Readonly<Record<string, string>>;
  /** Where the guest has a sysfs for containers in user namespaces; see user-namespace.ts. */
  readonly sysfs?: string;
  /** Replacements of device numbers, by path in the container. */
  readonly devices?: readonly DeviceNumbers[];
}

export interface DeviceNumbers {
  readonly containerPath: string;
  readonly type: "b" | "c";
  readonly major: number;
  readonly minor: number;
}

/** Reads JSON text, or takes what was converted from protobuf. */
export function ociConfig(
  source: { readonly text: string } | { readonly value: Json },
  containerId: string,
  changes: OciChanges = {},
): OciConfig {
  const parsed = "text" in source ? parseOciJson(source.text, `configuration of ${containerId}`) : source.value;
  if (!isRecord(parsed)) throw new HearthError("invalid-argument", `read configuration of ${containerId}: no object`);
  const process = recordAt(parsed, "process");
  const hooks = recordAt(parsed, "hooks");
  const { timeOffsets: _timeOffsets, ...linux } = recordAt(parsed, "linux");
  const allNamespaces = listAt(linux, "namespaces").filter(isRecord).map(joined(changes.initPidOf));
  const namespaces = allNamespaces.filter(({ type }) => type !== "time");
  const inUserNamespace = hasType(namespaces, "user") && !hasType(namespaces, "network");
  const sysctls = splitSysctls(linux, namespaces);
  const mounts = listAt(parsed, "mounts");
  const sysfs = inUserNamespace && changes.sysfs !== undefined ? bindSysfs(mounts, changes.sysfs) : undefined;
  const { mountFlags: _flags, ...rootForCrun } = recordAt(parsed, "root");
  const rootFlags = listAt(recordAt(parsed, "root"), "mountFlags");
  const flagged = mountAttributes(sysfs?.mounts ?? mounts, listAt(linux, "readonlyPaths"), rootFlags);
  const cgroupPath = guestCgroupPath(linux["cgroupsPath"], containerId);
  const attributes = processAttributes(process);
  const { path: root } = rootForCrun;
  const completeIn = hidesPasswd(mounts) ? undefined : changes.completeIn;
  const ofRoot =
    completeIn === undefined || typeof root !== "string" ? attributes.process : completeIn(root, attributes.process);
  const startHooks = listAt(hooks, "startContainer").filter(isRecord).map(startHookOf);
  const complete = {
    ...parsed,
    ...(parsed["root"] === undefined ? {} : { root: rootForCrun }),
    ...(parsed["mounts"] === undefined ? {} : { mounts: flagged.mounts }),
    ...(startHooks.length === 0
      ? {}
      : { annotations: { ...recordAt(parsed, "annotations"), ...changes.startHookAnnotations } }),
    ...(parsed["process"] === undefined ? {} : { process: withProcessDefaults(ofRoot, changes.openFilesHardLimit) }),
    linux: { ...linux, namespaces, sysctl: sysctls.other, ...linuxChanges(linux, namespaces, cgroupPath, changes) },
  };
  const [program] = listAt(process, "args");
  return {
    json: stringifyOciJson(complete),
    terminal: process["terminal"] === true,
    program: typeof program === "string" ? program : undefined,
    cgroupPath,
    applyAttributes: (pid) => {
      attributes.apply(pid);
      flagged.apply(pid);
    },
    // Whose files are whose in a user namespace is not looked into.
    checkProgram: (root, other) => {
      if (!hasType(namespaces, "user")) checkExecutable(root, other ?? attributes.process);
    },
    hasPoststart: listAt(hooks, "poststart").length > 0,
    hasPoststop: listAt(hooks, "poststop").length > 0,
    startHooks,
    createHooks: listAt(hooks, "createContainer")
      .filter(isRecord)
      .map(startHookOf)
      .map(({ path }) => path),
    ownPidNamespace:
      changes.pidNamespace === undefined && namespaces.some((ns) => ns["type"] === "pid" && ns["path"] === undefined),
    timeNamespace: timeNamespaceOf(recordAt(parsed, "linux"), allNamespaces),
    networkSysctls: { ...(inUserNamespace ? PORTS_SYSCTL : {}), ...sysctls.network },
    bindsSysfs: sysfs?.binds === true,
    withHugepages: mentionsHugepages(parsed) ? parsed : undefined,
  };
}

function startHookOf({ path, timeout }: JsonRecord): StartHook {
  return { path: String(path), timeout: typeof timeout === "number" ? timeout : undefined };
}

function mentionsHugepages(config: JsonRecord): boolean {
  const limits = listAt(recordAt(recordAt(config, "linux"), "resources"), "hugepageLimits");
  return (
    limits.length > 0 || listAt(config, "mounts").some((mount) => isRecord(mount) && mount["type"] === "hugetlbfs")
  );
}

/** The namespace of another container gets the path that it has in the guest. */
function joined(initPidOf: OciChanges["initPidOf"]): (namespace: JsonRecord) => JsonRecord {
  return (namespace) => {
    const { type, path } = namespace;
    if (typeof path !== "string" || !path.startsWith(CONTAINER_NAMESPACE_PREFIX)) return namespace;
    const id = path.slice(CONTAINER_NAMESPACE_PREFIX.length);
    if (initPidOf === undefined) {
      throw new HearthError("invalid-argument", `join ${type} namespace of container ${id}: there are no others`);
    }
    return { ...namespace, path: `/proc/${initPidOf(id)}/ns/${type}` };
  };
}

function hasType(namespaces: readonly JsonRecord[], type: string): boolean {
  return namespaces.some((ns) => ns["type"] === type);
}

function splitSysctls(
  linux: JsonRecord,
  namespaces: readonly JsonRecord[],
): { readonly network: JsonRecord; readonly other: JsonRecord } {
  const all = recordAt(linux, "sysctl");
  if (hasType(namespaces, "network")) return { network: {}, other: all };
  const entries = Object.entries(all);
  const isNetwork = ([name]: [string, unknown]): boolean => /^net[./]/.test(name);
  return {
    network: Object.fromEntries(entries.filter(isNetwork)),
    other: Object.fromEntries(entries.filter((entry) => !isNetwork(entry))),
  };
}

/** A path of the host's systemd form ("slice:prefix:name") or none at all becomes one of ours. */
function guestCgroupPath(path: unknown, containerId: string): string {
  if (typeof path !== "string" || path === "" || path.includes(":")) return `/hearth/${containerId}`;
  const resolved = posix.resolve("/", path);
  return resolved === "/" ? `/hearth/${containerId}` : resolved;
}

/** Soft limit of open files where nothing is asked for: many a program walks through all it could have. */
const OPEN_FILES_SOFT_LIMIT = 1024;

/**
 * A process, of a container or for exec, with what crun would otherwise take over from the agent. The agent itself may
 * open as many files as the kernel lets it.
 */
export function withProcessDefaults(process: JsonRecord, openFilesHardLimit: number | undefined): JsonRecord {
  const rlimits = listAt(process, "rlimits");
  const known = rlimits.some((limit) => isRecord(limit) && limit["type"] === "RLIMIT_NOFILE");
  if (known || openFilesHardLimit === undefined) return process;
  const soft = Math.min(OPEN_FILES_SOFT_LIMIT, openFilesHardLimit);
  return { ...process, rlimits: [...rlimits, { type: "RLIMIT_NOFILE", soft, hard: openFilesHardLimit }] };
}

/** Properties of `linux` as they must become. */
function linuxChanges(
  linux: JsonRecord,
  namespaces: readonly JsonRecord[],
  cgroupPath: string,
  changes: OciChanges,
): JsonRecord {
  const parts: JsonRecord = { cgroupsPath: cgroupPath };
  // An emulated guest runs crun without address randomisation; what crun starts must not inherit that.
  if (linux["personality"] === undefined) parts["personality"] = { domain: "LINUX" };
  if (changes.pidNamespace !== undefined) {
    parts["namespaces"] = [
      ...namespaces.filter((ns) => ns["type"] !== "pid"),
      { type: "pid", path: changes.pidNamespace },
    ];
  }
  if (changes.devices !== undefined && changes.devices.length > 0) {
    Object.assign(parts, withDevices(linux, changes.devices));
  }
  return parts;
}

/** Device nodes and cgroup rules were written for the host's numbers: the guest's take their place, each rule once. */
function withDevices(linux: JsonRecord, numbers: readonly DeviceNumbers[]): JsonRecord {
  const devices = listAt(linux, "devices").filter(isRecord);
  const resources = recordAt(linux, "resources");
  const guestOf = new Map<string, DeviceNumbers>();
  const nodes = devices.map((device) => {
    const found = numbers.find(({ containerPath }) => containerPath === device["path"]);
    if (found === undefined) return device;
    guestOf.set(`${device["major"]}:${device["minor"]}`, found);
    return { ...device, type: found.type, major: found.major, minor: found.minor };
  });
  const missing = numbers.find(({ containerPath }) => !devices.some((device) => device["path"] === containerPath));
  if (missing !== undefined) {
    throw new HearthError("invalid-argument", `use device ${missing.containerPath}: not in linux.devices`);
  }
  const rules = listAt(resources, "devices")
    .filter(isRecord)
    .map((rule) => {
      const guest = guestOf.get(`${rule["major"]}:${rule["minor"]}`);
      return guest === undefined ? rule : { ...rule, type: guest.type, major: guest.major, minor: guest.minor };
    });
  return { devices: nodes, resources: { ...resources, devices: rules } };
}
