/** The guest build from the kernel package in the cache, with busybox in the agent's place: that makes it quick. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { buildGuest, type GuestBuild } from "../guest/build.ts";
import { run, runText } from "../guest/command.ts";
import { parseElf, readInterpreter, readNeeded } from "../guest/elf.ts";
import { IMAGE_ALIGNMENT_BYTES } from "../guest/image.ts";
import { fetchKernel } from "../guest/kernel.ts";
import { IMAGE_MODULES, INITRD_MODULES, imageModuleNames } from "../guest/module-list.ts";
import { moduleName, parseModulesDep, readModuleSource } from "../guest/modules.ts";
import { pvhEntry } from "../guest/vmlinux.ts";
import { scratch } from "./harness/scratch.ts";

const AGENT = "/bin/busybox";
const CACHE_DIR = join(import.meta.dir, "../build/cache");

const dir = scratch();
const steps: string[] = [];

function build(name: string): Promise<GuestBuild> {
  steps.length = 0;
  return buildGuest({
    agent: AGENT,
    cacheDir: CACHE_DIR,
    outputDir: dir.path(name),
    progress: (step) => void steps.push(step),
  });
}

function workingDirectories(): string[] {
  return existsSync(CACHE_DIR) ? readdirSync(CACHE_DIR).filter((name) => name.startsWith("work-")) : [];
}

const before = workingDirectories();
let guest: GuestBuild;
let root: string;

beforeAll(async () => {
  guest = await build("first");
  root = dir.path("root");
  await run(["fsck.erofs", `--extract=${root}`, guest.image]);
}, 120_000);
afterAll(() => dir[Symbol.dispose]());

describe("build", () => {
  test("is reproducible: another directory, time and umask, the same digest", async () => {
    const umask = process.umask(0o077);
    try {
      const second = await build("second");
      expect(second.digest).toBe(guest.digest);
      expect(readFileSync(second.image).equals(readFileSync(guest.image))).toBe(true);
      expect(readFileSync(second.initrd).equals(readFileSync(guest.initrd))).toBe(true);
    } finally {
      process.umask(umask);
    }
  }, 120_000);

  test("does nothing when nothing changed, and again when a result is missing or the manifest unreadable", async () => {
    await build("third");
    await build("third");
    expect(steps).toEqual(["up to date"]);
    for (const damage of [
      () => rmSync(dir.path("third/initrd.cpio")),
      () => writeFileSync(dir.path("third/manifest.json"), "{}"),
    ]) {
      damage();
      expect((await build("third")).digest).toBe(guest.digest);
      expect(steps).toContain("pack root image");
    }
  }, 120_000);

  test("leaves no working directory in the cache", () => {
    expect(workingDirectories()).toEqual(before);
  });
});

describe("kernel", () => {
  test("is an ELF file with a PVH entry inside its first segment", () => {
    const kernel = new Uint8Array(readFileSync(guest.kernel));
    const entry = pvhEntry(kernel);
    expect(entry).toBeGreaterThanOrEqual(0x100000);
    expect(parseElf(kernel).segments.length).toBeGreaterThan(1);
  });
});

describe("initrd", () => {
  test("holds init, busybox and its modules with all they depend on", async () => {
    const names = (
      await runText(["busybox", "cpio", "-t"], { input: new Uint8Array(readFileSync(guest.initrd)) })
    ).split("\n");
    expect(names).toContain("init");
    expect(names).toContain("bin/busybox");
    const modules = new Set(names.filter((name) => name.endsWith(".ko")).map(moduleName));
    const { table } = await readModuleSource(await fetchKernel(CACHE_DIR, false, () => {}));
    const needed = INITRD_MODULES.flatMap((name) => [name, ...(table.get(name)?.needs ?? []).map(moduleName)]);
    expect(needed.filter((name) => !modules.has(name))).toEqual([]);
  });
});

describe("image", () => {
  test("is as long as a memory device has to be", () => {
    expect(statSync(guest.image).size % IMAGE_ALIGNMENT_BYTES).toBe(0);
  });

  test.each(Object.keys(IMAGE_MODULES))("has every module of group %s, in the table and as a file", (group) => {
    const directory = join(root, "usr/lib/modules", guest.kernelVersion);
    const table = parseModulesDep(readFileSync(join(directory, "modules.dep"), "utf8"));
    const lost = (IMAGE_MODULES[group] ?? []).filter((name) => {
      const module = table.get(name);
      return module === undefined || ![module.path, ...module.needs].every((path) => existsSync(join(directory, path)));
    });
    expect(lost).toEqual([]);
  });

  test("knows by which names the kernel asks for modules", () => {
    const aliases = readFileSync(join(root, "usr/lib/modules", guest.kernelVersion, "modules.alias"), "utf8");
    for (const alias of ["fs-overlay", "fs-ext4", "fs-9p", "fs-virtiofs", "rtnl-link-veth", "net-pf-40"]) {
      expect(aliases).toContain(`alias ${alias} `);
    }
    expect(readlinkSync(join(root, "usr/sbin/modprobe"))).toBe("../bin/busybox");
  });

  test.each(["usr/bin/crun", "usr/bin/hearth-agent"])("has every library of %s, and its loader", (program) => {
    const libraries = join(root, "usr/lib/x86_64-linux-gnu");
    const pending = [join(root, program)];
    const seen = new Set<string>();
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      const elf = parseElf(new Uint8Array(readFileSync(path)));
      const loader = readInterpreter(elf);
      for (const name of [...readNeeded(elf), ...(loader === undefined ? [] : [basename(loader)])]) {
        if (seen.has(name)) continue;
        seen.add(name);
        pending.push(join(libraries, name));
      }
    }
    if (program.endsWith("crun")) expect(seen.size).toBeGreaterThan(3);
  });

  test("has an empty machine-id, root as the only user who can log in, and no writable file", () => {
    expect(readFileSync(join(root, "etc/machine-id"), "utf8")).toBe("");
    expect(readFileSync(join(root, "etc/passwd"), "utf8")).toStartWith("root:x:0:0:");
    const suspicious = readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => lstatSync(join(entry.parentPath, entry.name)))
      .filter(({ mode, uid }) => (mode & 0o6022) !== 0 || uid !== 0);
    expect(suspicious).toEqual([]);
  });

  test("every link inside leads somewhere", () => {
    const broken = readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isSymbolicLink())
      .map((entry) => join(entry.parentPath, entry.name))
      .filter((path) => !existsSync(path) && !/\/etc\/(mtab|resolv\.conf)$/.test(path));
    expect(broken).toEqual([]);
  });

  test("carries the rehearsal's root", () => {
    expect(statSync(join(root, "usr/share/hearth/rehearsal/rootfs/bin/busybox")).mode & 0o111).toBe(0o111);
    expect(readlinkSync(join(root, "usr/share/hearth/rehearsal/rootfs/bin/true"))).toBe("busybox");
  });

  test("the list of modules names none twice", () => {
    const names = Object.values(IMAGE_MODULES).flat();
    expect(names.length).toBe(new Set(names).size);
    expect(imageModuleNames().length).toBeGreaterThanOrEqual(names.length);
  });
});
