import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { templatePaths } from "../paths.ts";
import {
  findTemplate,
  listTemplates,
  makeHalf,
  markBroken,
  publishTemplate,
  removeHalves,
  removeTemplate,
  TemplateError,
  templateKind,
} from "./template-store.ts";
import { identityDigest, type VmConfig } from "./vm-config.ts";

let dir: string;
let config: VmConfig;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "templates-"));
  config = {
    hypervisor: "qemu",
    qemuPath: "/usr/bin/qemu-system-x86_64",
    machine: "q35",
    accel: "tcg",
    kernel: "/guest/vmlinux",
    initrd: "/guest/initrd.cpio",
    image: "/guest/rootfs.erofs",
    guestDigest: "00",
    programsDigest: "00",
    hearthVersion: "0.1.0",
    kernelParams: [],
    vcpus: 1,
    maxVcpus: 2,
    memoryMib: 256,
    maxMemoryMib: 512,
    sharedFs: "virtio-9p",
    virtiofsdPath: "",
    transport: "virtio-serial",
    seccomp: true,
    bootTimeoutMs: 20_000,
  };
});
afterEach(() => rmSync(dir, { recursive: true }));

function publish(of = config): string {
  const half = makeHalf(dir);
  writeFileSync(half.memory, new Uint8Array(4096).fill(7));
  writeFileSync(half.state, "the state");
  return publishTemplate(dir, half, of, "7.2.0").identity;
}

function problemOf(of = config): string {
  try {
    findTemplate(dir, of);
    return "none";
  } catch (thrown) {
    if (!(thrown instanceof TemplateError)) throw thrown;
    expect(thrown.hint).toContain("hearth template init");
    return `${thrown.problem}: ${thrown.message}`;
  }
}

describe("a template", () => {
  test("is found by the identity it was made for, and by no other", () => {
    const identity = publish();
    expect(identity).toBe(identityDigest(config));
    const paths = templatePaths(join(dir, identity));
    expect(findTemplate(dir, config).files).toEqual({
      kind: "copy-on-write",
      memory: paths.memory,
      state: paths.state,
    });
    expect(problemOf({ ...config, vcpus: 2 })).toStartWith("missing: ");
    expect(listTemplates(dir)).toMatchObject([{ identity, state: "ready", reason: "", record: { vcpus: 1 } }]);
    expect(listTemplates(dir)[0]?.allocatedBytes).toBeGreaterThanOrEqual(4096);
  });

  test("of one shape does not replace that of another, one of the same does", () => {
    publish();
    publish({ ...config, memoryMib: 512 });
    const before = statSync(findTemplate(dir, config).files.memory).ino;
    publish();
    expect(statSync(findTemplate(dir, config).files.memory).ino).not.toBe(before);
    expect(listTemplates(dir).map(({ state }) => state)).toEqual(["ready", "ready"]);
    expect(readdirSync(dir).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("belongs to nobody else", () => {
    const identity = publish();
    expect(statSync(join(dir, identity)).mode & 0o777).toBe(0o700);
    expect(statSync(join(dir, identity, "template.json")).mode & 0o777).toBe(0o600);
  });

  test("is copied where virtiofsd must see the memory", () => {
    expect(templateKind({ sharedFs: "virtio-fs" })).toBe("copied");
    publish({ ...config, sharedFs: "virtio-fs" });
    expect(findTemplate(dir, { ...config, sharedFs: "virtio-fs" }).files.kind).toBe("copied");
  });
});

describe("a template that is no good", () => {
  const damages: [string, string, (file: (name: string) => string) => void][] = [
    ["truncated memory", "broken: .*vm.mem has 100 bytes", (file) => truncateSync(file("vm.mem"), 100)],
    ["memory written to", "broken: .*vm.mem was written to", (file) => appendInPlace(file("vm.mem"))],
    ["no memory", "broken: .*ENOENT", (file) => rmSync(file("vm.mem"))],
    ["truncated state", "broken: .*vm.state has 3 bytes instead of 9", (file) => truncateSync(file("vm.state"), 3)],
    ["longer state", "broken: .*vm.state has 10 bytes", (file) => appendFileSync(file("vm.state"), "x")],
    ["other state", "broken: .*another digest", (file) => writeFileSync(file("vm.state"), "THE STATE")],
    ["no state", "broken: .*ENOENT", (file) => rmSync(file("vm.state"))],
    ["no record", "missing: ", (file) => rmSync(file("template.json"))],
    ["a record that is no JSON", "broken: .*template.json", (file) => truncateSync(file("template.json"), 20)],
    ["a record of a later version", "broken: .*version", (file) => edit(file("template.json"), { version: 2 })],
    ["another's record", "broken: .*another's", (file) => edit(file("template.json"), { identity: "0".repeat(64) })],
    ["a record without its kind", "broken: .*kind", (file) => edit(file("template.json"), { kind: "new" })],
    ["a clone that failed", "broken: .*no luck", () => markBroken(findTemplate(dir, config), "no luck")],
    ["a fault nobody can read", "broken: .*could not be made", (file) => writeFileSync(file("fault.json"), "")],
  ];

  test.each(damages)("%s", (_name, expected, damage) => {
    const identity = publish();
    damage((name) => join(dir, identity, name));
    expect(problemOf()).toMatch(new RegExp(`^${expected}`));
    const [status] = listTemplates(dir);
    expect(status?.state === "ready").toBe(false);
    expect(status?.reason).not.toBe("");
    // Made anew it is good again.
    publish();
    expect(problemOf()).toBe("none");
  });

  test.each([
    ["hearthVersion", "made by hearth 0.1.0, this is new"],
    ["guestDigest", "made of another guest"],
    ["programsDigest", "QEMU 7.2.0 or virtiofsd was replaced"],
  ] as const)("made before an upgrade of %s is outdated", (field, reason) => {
    publish();
    const upgraded = { ...config, [field]: "new" };
    expect(problemOf(upgraded)).toMatch(new RegExp(`^outdated: .*${reason}`));
    expect(listTemplates(dir, upgraded)).toMatchObject([
      { state: "outdated", reason: expect.stringContaining(reason) },
    ]);
    // Of another size it is none, and without an upgrade it is as good as it was.
    expect(problemOf({ ...upgraded, memoryMib: 512 })).toStartWith("missing: ");
    expect(problemOf()).toBe("none");
  });

  test("is marked, and a mark for one that has gone is none", () => {
    const identity = publish();
    const found = findTemplate(dir, config);
    markBroken(found, "restore: not a migration stream");
    expect(problemOf()).toContain("restore: not a migration stream");
    removeTemplate(dir, identity);
    markBroken(found, "late");
    expect(listTemplates(dir)).toEqual([]);
    // Nor is it one for the template that took its place.
    publish();
    markBroken({ ...found, createdAtMs: found.createdAtMs - 1 }, "late");
    expect(problemOf()).toBe("none");
  });

  function appendInPlace(path: string): void {
    const { size } = statSync(path);
    appendFileSync(path, "x");
    truncateSync(path, size);
  }

  function edit(path: string, change: object): void {
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
  }
});

describe("what was interrupted", () => {
  test("in every state is listed as such, hides nothing, and goes", () => {
    publish();
    makeHalf(dir);
    const half = makeHalf(dir);
    writeFileSync(half.memory, "begun");
    expect(listTemplates(dir).map(({ state }) => state)).toEqual(["interrupted", "interrupted", "ready"]);
    expect(removeHalves(dir)).toBe(2);
    expect(listTemplates(dir).map(({ state }) => state)).toEqual(["ready"]);
    expect(problemOf()).toBe("none");
  });

  test("a directory that is no template of ours is broken, not ready", () => {
    mkdirSync(join(dir, "stranger"));
    expect(listTemplates(dir)).toMatchObject([{ state: "broken", reason: "no record" }]);
  });

  test("a template put elsewhere by hand is none", () => {
    const identity = publish();
    const aside = `${dir}-aside`;
    renameSync(join(dir, identity), aside);
    mkdirSync(join(dir, identity));
    for (const name of readdirSync(aside)) copyFileSync(join(aside, name), join(dir, identity, name));
    utimesSync(join(dir, identity, "vm.mem"), 1, 1);
    rmSync(aside, { recursive: true });
    expect(problemOf()).toMatch(/^broken: .*written to/);
  });

  test("no place for templates is no template", () => {
    expect(listTemplates(join(dir, "nowhere"))).toEqual([]);
    expect(removeHalves(join(dir, "nowhere"))).toBe(0);
    removeTemplate(dir, "nothing");
  });
});
