import { describe, expect, test } from "bun:test";
import { processAttributes } from "./process-attributes.ts";

describe("a process without what crun does not do", () => {
  test("scheduler and I/O priority are taken out", () => {
    const { process } = processAttributes({
      args: ["x"],
      scheduler: { policy: "SCHED_BATCH", flags: ["SCHED_FLAG_RESET_ON_FORK"] },
      ioPriority: { class: "IOPRIO_CLASS_BE", priority: 3 },
    });
    expect(process).toEqual({ args: ["x"] });
  });

  test("a limit of open files that crun can work under stays, a lower one does not", () => {
    const limit = (soft: number): object => ({ type: "RLIMIT_NOFILE", soft, hard: 1024 });
    const other = { type: "RLIMIT_CORE", soft: 0, hard: 0 };
    expect(processAttributes({ rlimits: [limit(64), other] }).process["rlimits"]).toEqual([limit(64), other]);
    expect(processAttributes({ rlimits: [limit(63), other] }).process["rlimits"]).toEqual([other]);
  });
});

describe("refused", () => {
  test.each([
    ["process.scheduler.policy", { scheduler: { policy: "SCHED_BOGUS" } }],
    ["process.scheduler.policy", { scheduler: {} }],
    ["process.scheduler.flags", { scheduler: { policy: "SCHED_OTHER", flags: ["X"] } }],
    ["process.ioPriority.class", { ioPriority: { class: "X" } }],
    ["process.ioPriority.priority 8", { ioPriority: { class: "IOPRIO_CLASS_BE", priority: 8 } }],
  ])("%s", (property, process) => {
    expect(() => processAttributes(process)).toThrow(property);
  });
});
