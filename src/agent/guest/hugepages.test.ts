import { expect, test } from "bun:test";
import { wantedHugepages } from "./hugepages.ts";

const MIB = 1n << 20n;
const mount = (...options: string[]): object => ({ destination: "/huge", type: "hugetlbfs", source: "x", options });
const limits = (...entries: readonly [string, number | bigint][]): object => ({
  resources: { hugepageLimits: entries.map(([pageSize, limit]) => ({ pageSize, limit })) },
});

test.each<[string, Record<string, unknown>, [number, bigint][]]>([
  ["nothing", {}, []],
  [
    "limits of two sizes",
    { linux: limits(["2MB", 4_194_304], ["1GB", 1n << 30n]) },
    [
      [2048, 4n * MIB],
      [1_048_576, 1024n * MIB],
    ],
  ],
  ["what engines write for no limit", { linux: limits(["2MB", 0], ["1GB", 9_223_372_036_854_771_712n]) }, []],
  ["a mount without a size", { mounts: [mount("pagesize=2M")] }, []],
  ["two mounts", { mounts: [mount("pagesize=2M", "size=8M"), mount("size=2097152")] }, [[2048, 10n * MIB]]],
  ["a mount with a percentage", { mounts: [mount("size=50%")] }, []],
  [
    "limits count before mounts",
    { mounts: [mount("size=64M")], linux: limits(["2MB", 6_291_456]) },
    [[2048, 6n * MIB]],
  ],
  ["another file system's size", { mounts: [{ type: "tmpfs", options: ["size=8M"] }] }, []],
])("%s", (_name, config, expected) => {
  expect([...wantedHugepages(config)]).toEqual(expected);
});
