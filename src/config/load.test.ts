import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_CONFIG } from "./defaults.ts";
import { loadConfig } from "./load.ts";
import { parseConfigFile } from "./parse.ts";
import { ConfigFileSchema } from "./schema.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-config-"));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

function write(name: string, text: string): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}

function shapes(...sizes: readonly (readonly [vcpus: number, memory: number, number: number])[]): string {
  return sizes
    .map(
      ([vcpus, memory, number]) =>
        `[[factory.vm_cache_shapes]]\nvcpus = ${vcpus}\nmemory = ${memory}\nnumber = ${number}\n`,
    )
    .join("");
}

describe("where the configuration comes from", () => {
  test("defaults when there is no file", async () => {
    const source = { flag: undefined, environment: undefined, defaultPath: join(dir, "config.toml") };
    expect(await loadConfig(source)).toEqual(DEFAULT_CONFIG);
  });

  test("flag over environment over default", async () => {
    const byFlag = write("flag.toml", "[factory]\nvm_cache_number = 1\n");
    const byEnvironment = write("env.toml", "[factory]\nvm_cache_number = 2\n");
    const defaultPath = write("config.toml", "[factory]\nvm_cache_number = 3\n");
    const number = async (flag?: string, environment?: string): Promise<number> =>
      (await loadConfig({ flag, environment, defaultPath })).factory.vm_cache_number;
    expect(await number(byFlag, byEnvironment)).toBe(1);
    expect(await number(undefined, byEnvironment)).toBe(2);
    expect(await number(undefined, "")).toBe(3);
  });

  test("drop-ins are merged in order, key by key, and only beside the default file", async () => {
    const defaultPath = write("config.toml", "[factory]\nvm_cache_number = 3\n[runtime]\nlog_level = 'debug'\n");
    mkdirSync(join(dir, "config.d"));
    write("config.d/20-b.toml", "[factory]\nvm_cache_number = 5\n");
    write("config.d/10-a.toml", "[factory]\nvm_cache_number = 4\nvm_cache_timeout_ms = 7\n");
    write("config.d/30-c.txt", "not toml at all [");
    const config = await loadConfig({ flag: undefined, environment: undefined, defaultPath });
    expect(config.factory).toMatchObject({ vm_cache_number: 5, vm_cache_timeout_ms: 7 });
    expect(config.runtime.log_level).toBe("debug");
    expect((await loadConfig({ flag: defaultPath, environment: undefined, defaultPath })).factory.vm_cache_number).toBe(
      3,
    );
  });

  test("a named file must exist", async () => {
    const flag = join(dir, "nope.toml");
    expect(loadConfig({ flag, environment: undefined })).rejects.toThrow(`read configuration ${flag}: ENOENT`);
  });

  test("the pool's socket follows the run directory", async () => {
    const flag = write("x.toml", "[runtime]\nrun_dir = '/run/elsewhere'\n");
    const config = await loadConfig({ flag, environment: undefined });
    expect(config.factory.vm_cache_endpoint).toBe("/run/elsewhere/cache.sock");
  });

  test("keys that contradict each other", async () => {
    const memory = write("m.toml", "[hypervisor.qemu]\ndefault_maxmemory = 512\n");
    expect(loadConfig({ flag: memory, environment: undefined })).rejects.toThrow("default_maxmemory 512 is less than");
    const vcpus = write("c.toml", "[hypervisor.qemu]\ndefault_vcpus = 4\ndefault_maxvcpus = 2\n");
    expect(loadConfig({ flag: vcpus, environment: undefined })).rejects.toThrow("default_maxvcpus 2 is less than");
    const kernel = write("k.toml", "[hypervisor.qemu]\nkernel = '/k'\n");
    expect(loadConfig({ flag: kernel, environment: undefined })).rejects.toThrow("kernel set without initrd and image");
    const image = write("i.toml", "[hypervisor.qemu]\nkernel = '/k'\nimage = '/x'\n");
    expect(loadConfig({ flag: image, environment: undefined })).rejects.toThrow("kernel and image set without initrd");
    const all = write("a.toml", "[hypervisor.qemu]\nkernel = '/k'\ninitrd = '/i'\nimage = '/x'\n");
    expect((await loadConfig({ flag: all, environment: undefined })).hypervisor).toMatchObject({ initrd: "/i" });
  });

  test.each([
    [
      "[factory]\nvm_cache_backoff_ms = 5000\nvm_cache_backoff_max_ms = 100\n",
      "max_ms 100 is less than vm_cache_backoff_ms",
    ],
    [
      "[factory]\nvm_cache_number = 1\nvm_cache_memory_max = 512\n",
      "vm_cache_memory_max 512 is less than default_memory",
    ],
    [shapes([1, 256, 1], [1, 256, 2]), "factory.vm_cache_shapes[1] is another shape's size: 1 vCPUs, 256 MiB"],
    [shapes([1, 256, 600], [2, 256, 401]), "factory.vm_cache_shapes have 1001 VMs, more than 1000"],
    [
      `[hypervisor.qemu]\ndefault_maxvcpus = 2\n${shapes([4, 256, 1])}`,
      "default_maxvcpus 2 is less than factory.vm_cache_shapes[0].vcpus 4",
    ],
    [
      `[hypervisor.qemu]\ndefault_maxmemory = 2048\n${shapes([1, 4096, 1])}`,
      "default_maxmemory 2048 is less than factory.vm_cache_shapes[0].memory 4096",
    ],
    [`[factory]\nvm_cache_memory_max = 1024\n${shapes([1, 4096, 1])}`, "vm_cache_memory_max 1024 is less than"],
  ])("%p contradicts itself", async (text, message) => {
    const flag = write("x.toml", text);
    expect(loadConfig({ flag, environment: undefined })).rejects.toThrow(message);
  });

  test("shapes are tables of an array", async () => {
    const flag = write("x.toml", shapes([1, 256, 8], [2, 1024, 2]));
    expect((await loadConfig({ flag, environment: undefined })).factory.vm_cache_shapes).toEqual([
      { vcpus: 1, memory: 256, number: 8 },
      { vcpus: 2, memory: 1024, number: 2 },
    ]);
  });
});

describe("bad configuration", () => {
  test.each([
    ["a = ", "parse configuration f: line 1, column 5: invalid value"],
    ["[factory]\nvm_cache_number = 1 2\n", "parse configuration f: line 2, column "],
    ["[factory\n", "parse configuration f: line 1, column "],
    ["[factori]\n", 'unknown key factori; did you mean "factory"?'],
    [
      "[hypervisor.qemu]\ndefualt_memory = 1",
      'unknown key hypervisor.qemu.defualt_memory; did you mean "default_memory"?',
    ],
    ["[hypervisor.firecracker]\n", "unknown key hypervisor.firecracker"],
    ["[factory]\nzzzzzzzzzzz = 1\n", "unknown key factory.zzzzzzzzzzz"],
    ["[agent]\nx = 1\n", "unknown key agent.x"],
    ["factory = 5\n", "factory must be a table"],
    [
      "[hypervisor.qemu]\ndefault_memory = 64\n",
      "hypervisor.qemu.default_memory must be a whole number of MiB from 128 to 1048576, got 64",
    ],
    ["[hypervisor.qemu]\ndefault_memory = 128.5\n", "must be a whole number of MiB"],
    ["[hypervisor.qemu]\ndefault_memory = '1G'\n", 'must be a whole number of MiB from 128 to 1048576, got "1G"'],
    [
      "[hypervisor.qemu]\ndefault_vcpus = 0\n",
      "hypervisor.qemu.default_vcpus must be a whole number of vCPUs from 1 to 240, got 0",
    ],
    ["[hypervisor.qemu]\npath = 'qemu'\n", 'hypervisor.qemu.path must be an absolute path, got "qemu"'],
    ["[hypervisor.qemu]\npath = 5\n", "hypervisor.qemu.path must be a string, got 5"],
    ["[hypervisor.qemu]\naccel = 'hvf'\n", 'hypervisor.qemu.accel must be one of "auto", "kvm", "tcg", got "hvf"'],
    ["[hypervisor.qemu]\nseccomp_sandbox = 1\n", "seccomp_sandbox must be true or false, got 1"],
    [
      "[[factory.vm_cache_shapes]]\nvcpus = 1\nmemroy = 256\nnumber = 1\n",
      'unknown key factory.vm_cache_shapes[0].memroy; did you mean "memory"?',
    ],
    [
      `${shapes([1, 256, 1])}[[factory.vm_cache_shapes]]\nvcpus = 1\nmemory = 256\nnumber = 0\n`,
      "factory.vm_cache_shapes[1].number must be a whole number of VMs from 1 to 1000, got 0",
    ],
    ["[[factory.vm_cache_shapes]]\nvcpus = 1\nmemory = 256\n", "factory.vm_cache_shapes[0].number is missing"],
    ["[factory]\nvm_cache_shapes = 2\n", "factory.vm_cache_shapes must be an array of tables, got 2"],
    [
      "[factory]\nvm_cache_number = -1\n",
      "factory.vm_cache_number must be a whole number of VMs from 0 to 1000, got -1",
    ],
  ])("%p", (text, message) => {
    expect(() => parseConfigFile(text, "f")).toThrow(message);
    try {
      parseConfigFile(text, "f");
    } catch (error) {
      expect(String(error)).not.toContain("\n");
    }
  });

  test("every key of the configuration can be set, and no other", () => {
    const sections = ConfigFileSchema.entries;
    const keys = (entries: Record<string, unknown>): string[] => Object.keys(entries).sort();
    expect(keys(sections.hypervisor.wrapped.entries.qemu.wrapped.entries)).toEqual(keys(DEFAULT_CONFIG.hypervisor));
    expect(keys(sections.factory.wrapped.entries)).toEqual(keys(DEFAULT_CONFIG.factory));
    expect(keys(sections.runtime.wrapped.entries)).toEqual(keys(DEFAULT_CONFIG.runtime));
  });

  test("the defaults satisfy the schema", () => {
    const { hypervisor, factory, runtime } = DEFAULT_CONFIG;
    const section = (name: string, keys: object): string =>
      `[${name}]\n${Object.entries(keys)
        .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
        .join("")}`;
    const text = section("hypervisor.qemu", hypervisor) + section("factory", factory) + section("runtime", runtime);
    expect(parseConfigFile(text, "f")).toEqual({ hypervisor: { qemu: hypervisor }, factory, runtime });
  });
});
