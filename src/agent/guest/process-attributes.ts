/**
 * What a process asks for and crun does not do: scheduling policy, I/O priority, and a limit of open files so low that
 * crun itself could not work under it. Set from outside on the process that crun has made.
 */
import { HearthError } from "../../errors.ts";
import { type SchedulingAttributes, setIoPriority, setOpenFilesLimit, setScheduling } from "../../sys/scheduling.ts";
import { isRecord, type JsonRecord } from "./json-record.ts";

/** Files that crun holds open while it sets a container up, with room to spare. */
const OPEN_FILES_OF_CRUN = 64n;

/** Source: linux/sched.h. */
const POLICIES: Readonly<Record<string, number>> = {
  SCHED_OTHER: 0,
  SCHED_FIFO: 1,
  SCHED_RR: 2,
  SCHED_BATCH: 3,
  SCHED_ISO: 4,
  SCHED_IDLE: 5,
  SCHED_DEADLINE: 6,
};
const FLAGS: Readonly<Record<string, bigint>> = {
  SCHED_FLAG_RESET_ON_FORK: 0x01n,
  SCHED_FLAG_RECLAIM: 0x02n,
  SCHED_FLAG_DL_OVERRUN: 0x04n,
  SCHED_FLAG_KEEP_POLICY: 0x08n,
  SCHED_FLAG_KEEP_PARAMS: 0x10n,
  SCHED_FLAG_UTIL_CLAMP_MIN: 0x20n,
  SCHED_FLAG_UTIL_CLAMP_MAX: 0x40n,
};
/** Source: linux/ioprio.h. */
const IO_CLASSES: Readonly<Record<string, number>> = { IOPRIO_CLASS_RT: 1, IOPRIO_CLASS_BE: 2, IOPRIO_CLASS_IDLE: 3 };
const IO_LEVEL_MAX = 7;

interface IoPriority {
  readonly ioClass: number;
  readonly level: number;
}

interface OpenFiles {
  readonly soft: bigint;
  readonly hard: bigint;
}

export interface ProcessAttributes {
  /** The process without what crun must not see. */
  readonly process: JsonRecord;
  /** Sets the rest on the process that was made. */
  readonly apply: (pid: number) => void;
}

/** Splits an OCI process. Fails with invalid-argument for a policy, flag, class or level that Linux does not have. */
export function processAttributes(process: JsonRecord): ProcessAttributes {
  const { scheduler, ioPriority, ...rest } = process;
  const scheduling = isRecord(scheduler) ? schedulingOf(scheduler) : undefined;
  const io = isRecord(ioPriority) ? ioPriorityOf(ioPriority) : undefined;
  const limits = Array.isArray(process["rlimits"]) ? process["rlimits"].filter(isRecord) : [];
  const openFiles = openFilesOf(limits);
  const kept = openFiles === undefined ? rest : { ...rest, rlimits: limits.filter((limit) => !isOpenFiles(limit)) };
  return {
    process: kept,
    apply: (pid) => {
      if (openFiles !== undefined) setOpenFilesLimit(pid, openFiles.soft, openFiles.hard);
      if (io !== undefined) setIoPriority(pid, io.ioClass, io.level);
      if (scheduling !== undefined) setScheduling(pid, scheduling);
    },
  };
}

function schedulingOf(scheduler: JsonRecord): SchedulingAttributes {
  const flags = Array.isArray(scheduler["flags"]) ? scheduler["flags"] : [];
  return {
    policy: named(POLICIES, scheduler["policy"], "process.scheduler.policy"),
    flags: flags.reduce((bits: bigint, name) => bits | named(FLAGS, name, "process.scheduler.flags"), 0n),
    nice: Number(whole(scheduler["nice"])),
    priority: Number(whole(scheduler["priority"])),
    runtime: whole(scheduler["runtime"]),
    deadline: whole(scheduler["deadline"]),
    period: whole(scheduler["period"]),
  };
}

function ioPriorityOf(ioPriority: JsonRecord): IoPriority {
  const level = Number(whole(ioPriority["priority"]));
  if (level < 0 || level > IO_LEVEL_MAX) {
    throw new HearthError(
      "invalid-argument",
      `apply process.ioPriority.priority ${level}: must be 0 to ${IO_LEVEL_MAX}`,
    );
  }
  return { ioClass: named(IO_CLASSES, ioPriority["class"], "process.ioPriority.class"), level };
}

/** Undefined when crun can set the limit itself. */
function openFilesOf(limits: readonly JsonRecord[]): OpenFiles | undefined {
  const limit = limits.find(isOpenFiles);
  if (limit === undefined) return undefined;
  const [soft, hard] = [whole(limit["soft"]), whole(limit["hard"])];
  return soft < OPEN_FILES_OF_CRUN && soft <= hard ? { soft, hard } : undefined;
}

function isOpenFiles(limit: JsonRecord): boolean {
  return limit["type"] === "RLIMIT_NOFILE";
}

function named<T>(table: Readonly<Record<string, T>>, name: unknown, property: string): T {
  const value = typeof name === "string" && Object.hasOwn(table, name) ? table[name] : undefined;
  if (value !== undefined) return value;
  throw new HearthError("invalid-argument", `apply ${property}: Linux has no ${JSON.stringify(name)}`);
}

function whole(value: unknown): bigint {
  return typeof value === "number" || typeof value === "bigint" ? BigInt(value) : 0n;
}
