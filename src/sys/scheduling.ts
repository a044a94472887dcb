/** How the kernel schedules a process: policy, I/O priority, resource limits, of one that runs already. */
import { check, lazyLibc, struct } from "./libc.ts";

/** Source: asm/unistd_64.h. */
const SYS_IOPRIO_SET = 251n;
const SYS_PRLIMIT64 = 302n;
const SYS_SCHED_SETATTR = 314n;

const libc = lazyLibc({ syscall: { args: ["i64", "i64", "i64", "i64"], returns: "i64" } });
const pointerLibc = lazyLibc({ syscall: { args: ["i64", "i64", "ptr", "i64"], returns: "i64" } });
const limitLibc = lazyLibc({ syscall: { args: ["i64", "i64", "i64", "ptr", "ptr"], returns: "i64" } });

/** Source: sched_setattr(2). */
export interface SchedulingAttributes {
  /** SCHED_* as a number. */
  readonly policy: number;
  /** SCHED_FLAG_* bits. */
  readonly flags: bigint;
  readonly nice: number;
  /** 1 to 99 for the real-time policies, else 0. */
  readonly priority: number;
  /** Nanoseconds, for SCHED_DEADLINE; else 0. */
  readonly runtime: bigint;
  readonly deadline: bigint;
  readonly period: bigint;
}

/** Source: linux/sched/types.h, SCHED_ATTR_SIZE_VER0. */
const SCHED_ATTR_BYTES = 48;

/** Of the main thread of `pid`; 0 is the caller. */
export function setScheduling(pid: number, wanted: SchedulingAttributes): void {
  const { bytes, view } = struct(SCHED_ATTR_BYTES);
  view.setUint32(0, SCHED_ATTR_BYTES, true);
  view.setUint32(4, wanted.policy, true);
  view.setBigUint64(8, wanted.flags, true);
  view.setInt32(16, wanted.nice, true);
  view.setUint32(20, wanted.priority, true);
  view.setBigUint64(24, wanted.runtime, true);
  view.setBigUint64(32, wanted.deadline, true);
  view.setBigUint64(40, wanted.period, true);
  check(
    Number(pointerLibc().syscall(SYS_SCHED_SETATTR, BigInt(pid), bytes, 0n)),
    `set scheduling policy of process ${pid}`,
  );
}

/** Source: linux/ioprio.h. */
const IOPRIO_WHO_PROCESS = 1n;
const IOPRIO_CLASS_SHIFT = 13;

/** `ioClass` is IOPRIO_CLASS_* as a number, `level` 0 to 7. */
export function setIoPriority(pid: number, ioClass: number, level: number): void {
  const value = BigInt((ioClass << IOPRIO_CLASS_SHIFT) | level);
  check(
    Number(libc().syscall(SYS_IOPRIO_SET, IOPRIO_WHO_PROCESS, BigInt(pid), value)),
    `set I/O priority of process ${pid}`,
  );
}

/** Source: asm-generic/resource.h. */
const RLIMIT_NOFILE = 7n;

/** Soft and hard limit of open files. */
export function setOpenFilesLimit(pid: number, soft: bigint, hard: bigint): void {
  const limits = BigUint64Array.of(soft, hard);
  check(
    Number(limitLibc().syscall(SYS_PRLIMIT64, BigInt(pid), RLIMIT_NOFILE, limits, null)),
    `set limit of open files of process ${pid}`,
  );
}
