/**
 * The record of one container, `<root>/<id>/state.json`, and what can be done to a container in each status.
 * Checked by hand: `state` must not pay for a schema library.
 */
import { HearthError } from "../errors.ts";
import { isAlive, type ProcessIdentity } from "../sys/process-stat.ts";
import { OCI_VERSION } from "../version.ts";

export const CONTAINER_RECORD_VERSION = 1;

/** What a command wrote down last; that a container has stopped shows in its shim alone. */
export const RECORDED_STATUSES = ["creating", "created", "running", "paused"] as const;
export type RecordedStatus = (typeof RECORDED_STATUSES)[number];
export type ContainerStatus = RecordedStatus | "stopped";

export interface ContainerRecord {
  readonly version: typeof CONTAINER_RECORD_VERSION;
  readonly id: string;
  readonly status: RecordedStatus;
  /** What a paused container is again when it is resumed; absent: running. */
  readonly pausedFrom?: RecordedStatus;
  readonly bundle: string;
  readonly rootfs: string;
  /** RFC 3339. */
  readonly created: string;
  readonly owner: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** The process that engines wait for. */
  readonly shim: ProcessIdentity;
  readonly vm: {
    readonly id: string;
    /** The VM's files are in `<runDir>/vm/<id>`. */
    readonly runDir: string;
    readonly socket: string;
    readonly sandbox: ProcessIdentity;
  };
  /** Host cgroup directories of the container, removed with it. */
  readonly cgroupDirs: readonly string[];
  /** The container whose VM this one is in, and whose cgroup the VM runs in; absent: it has a VM of its own. */
  readonly joined?: { readonly id: string; readonly cgroupDirs: readonly string[] };
  /** OCI process as JSON text (64-bit integers stay exact): what exec starts from. */
  readonly processJson: string;
  /** OCI hooks as JSON text. */
  readonly hooksJson: string;
}

/** Fails with invalid-argument when the file is not one of ours. */
export function parseContainerRecord(text: string, path: string): ContainerRecord {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new HearthError("invalid-argument", `read container record ${path}: not JSON`, { cause });
  }
  const fail = (why: string): never => {
    throw new HearthError("invalid-argument", `read container record ${path}: ${why}`);
  };
  const record = objectOf(json, "record", fail);
  if (record["version"] !== CONTAINER_RECORD_VERSION) fail(`version ${String(record["version"])} is not known`);
  const string = (name: string): string => stringOf(record[name], name, fail);
  const statusAt = (name: string): RecordedStatus | undefined =>
    RECORDED_STATUSES.find((known) => known === record[name]);
  const pausedFrom = statusAt("pausedFrom");
  const vm = objectOf(record["vm"], "vm", fail);
  const joined = record["joined"] === undefined ? undefined : objectOf(record["joined"], "joined", fail);
  return {
    version: CONTAINER_RECORD_VERSION,
    id: string("id"),
    status: statusAt("status") ?? fail("status is not known"),
    ...(pausedFrom === undefined ? {} : { pausedFrom }),
    bundle: string("bundle"),
    rootfs: string("rootfs"),
    created: string("created"),
    owner: string("owner"),
    annotations: stringMapOf(record["annotations"], "annotations", fail),
    shim: identityOf(record["shim"], "shim", fail),
    vm: {
      id: stringOf(vm["id"], "vm.id", fail),
      runDir: stringOf(vm["runDir"], "vm.runDir", fail),
      socket: stringOf(vm["socket"], "vm.socket", fail),
      sandbox: identityOf(vm["sandbox"], "vm.sandbox", fail),
    },
    cgroupDirs: stringsOf(record["cgroupDirs"], "cgroupDirs", fail),
    ...(joined === undefined
      ? {}
      : {
          joined: {
            id: stringOf(joined["id"], "joined.id", fail),
            cgroupDirs: stringsOf(joined["cgroupDirs"], "joined.cgroupDirs", fail),
          },
        }),
    processJson: string("processJson"),
    hooksJson: string("hooksJson"),
  };
}

type Fail = (why: string) => never;

function objectOf(value: unknown, name: string, fail: Fail): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return fail(`${name} is not an object`);
  return Object.fromEntries(Object.entries(value));
}

function stringOf(value: unknown, name: string, fail: Fail): string {
  return typeof value === "string" ? value : fail(`${name} is not a string`);
}

function stringsOf(value: unknown, name: string, fail: Fail): string[] {
  return Array.isArray(value) ? value.map((item) => stringOf(item, name, fail)) : fail(`${name} is not a list`);
}

function stringMapOf(value: unknown, name: string, fail: Fail): Record<string, string> {
  const entries = Object.entries(objectOf(value, name, fail));
  return Object.fromEntries(entries.map(([key, item]) => [key, stringOf(item, `${name}.${key}`, fail)]));
}

function identityOf(value: unknown, name: string, fail: Fail): ProcessIdentity {
  const { pid, startTime } = objectOf(value, name, fail);
  if (typeof pid !== "number" || !Number.isInteger(pid) || pid <= 0) return fail(`${name}.pid is not a process id`);
  if (typeof startTime !== "number" || !Number.isInteger(startTime)) return fail(`${name}.startTime is not a number`);
  return { pid, startTime };
}

/** The status now: what was recorded, unless the shim has ended. */
export function statusOf(record: ContainerRecord): ContainerStatus {
  return isAlive(record.shim) ? record.status : "stopped";
}

export const canStart = (status: ContainerStatus): boolean => status === "created";
export const canSignal = (status: ContainerStatus): boolean =>
  status === "created" || status === "running" || status === "paused";
/** One that waits for its start has its namespaces already; runc allows it too. */
export const canExec = (status: ContainerStatus): boolean => status === "created" || status === "running";
export const canPause = (status: ContainerStatus): boolean => status === "created" || status === "running";
export const canResume = (status: ContainerStatus): boolean => status === "paused";
/** Without force. One that was created but never started has nothing to lose; runc allows it too. */
export const canDelete = (status: ContainerStatus): boolean => status === "stopped" || status === "created";

/** What `state` and `list` print. Source: OCI runtime spec, State; rootfs, created and owner as runc. */
export interface PrintedState {
  readonly ociVersion: string;
  readonly id: string;
  /** The shim's; 0 when the container has stopped. */
  readonly pid: number;
  readonly status: ContainerStatus;
  readonly bundle: string;
  readonly rootfs: string;
  readonly created: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly owner: string;
}

export function printedState(record: ContainerRecord): PrintedState {
  const status = statusOf(record);
  return {
    ociVersion: OCI_VERSION,
    id: record.id,
    pid: status === "stopped" ? 0 : record.shim.pid,
    status,
    bundle: record.bundle,
    rootfs: record.rootfs,
    created: record.created,
    ...(Object.keys(record.annotations).length === 0 ? {} : { annotations: record.annotations }),
    owner: record.owner,
  };
}

/** The state that a hook gets on its standard input. Source: OCI runtime spec, POSIX-platform hooks. */
export function hookState(record: ContainerRecord, status: ContainerStatus): string {
  const { id, bundle, annotations } = record;
  const pid = status === "stopped" ? {} : { pid: record.shim.pid };
  return JSON.stringify({ ociVersion: OCI_VERSION, id, status, ...pid, bundle, annotations });
}
