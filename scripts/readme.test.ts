import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEFAULT_CONFIG } from "../src/config/defaults.ts";
import { containerPaths, guestPaths, templatePaths, vmPaths } from "../src/paths.ts";
import { REPOSITORY } from "./step.ts";

const read = (name: string): string => readFileSync(join(REPOSITORY, name), "utf8");

test("the README's table has every key of the configuration with its default, and no other", () => {
  const documented = [...read("README.md").matchAll(/^\| `([a-z_.]+)`\s*\| `(.*?)`\s*\|/gm)].map(([, key, value]) => [
    key,
    value,
  ]);
  const sections = {
    "hypervisor.qemu": DEFAULT_CONFIG.hypervisor,
    factory: DEFAULT_CONFIG.factory,
    runtime: DEFAULT_CONFIG.runtime,
  };
  const actual = Object.entries(sections).flatMap(([section, keys]) =>
    Object.entries(keys).map(([key, value]) => [`${section}.${key}`, JSON.stringify(value)]),
  );
  expect(documented).toEqual(actual);
});

test("docs/RUNDIR.md names every file of src/paths.ts", () => {
  const page = read("docs/RUNDIR.md");
  const names = [vmPaths("/r", "v"), containerPaths("/c", "i"), guestPaths("/d", "g"), templatePaths("/t")]
    .flatMap((paths) => Object.entries(paths))
    .filter(([kind]) => kind !== "dir")
    .map(([, path]) => path.slice(path.lastIndexOf("/") + 1));
  expect(names.filter((name) => !page.includes(name))).toEqual([]);
});

test.each(["README.md", "CHANGELOG.md", "docs/DESIGN.md", "docs/FAULTS.md", "docs/RUNDIR.md"])(
  "tables of %s: a row has its header's cells",
  (name) => {
    const cells = (line: string): number => line.split(/(?<!\\)\|/).length;
    const wrong: string[] = [];
    let header: string | undefined;
    for (const line of read(name).split("\n")) {
      if (!line.startsWith("|")) header = undefined;
      else header ??= line;
      if (header !== undefined && cells(line) !== cells(header)) wrong.push(line);
    }
    expect(wrong).toEqual([]);
  },
);
