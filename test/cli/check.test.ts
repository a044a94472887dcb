import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratch } from "../harness/scratch.ts";

const MAIN = join(import.meta.dir, "..", "..", "src", "main.ts");

interface Finding {
  readonly what: string;
  readonly verdict: string;
  readonly detail: string;
}

async function check(config: string): Promise<{ exitCode: number; find: (what: string) => Finding | undefined }> {
  using dir = scratch();
  const path = dir.path("config.toml");
  writeFileSync(path, config.replaceAll("DIR", dir.dir));
  mkdirSync(dir.path("bin"));
  writeFileSync(dir.path("bin/old-qemu"), "#!/bin/sh\necho 'QEMU emulator version 4.2.1'\n", { mode: 0o755 });
  writeFileSync(dir.path("bin/no-qemu"), "#!/bin/sh\necho 'something else'\n", { mode: 0o755 });
  const child = Bun.spawn([process.execPath, MAIN, "--config", path, "check", "--json"], {
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const text = await new Response(child.stdout).text();
  const findings: Finding[] = JSON.parse(text);
  return { exitCode: await child.exited, find: (what) => findings.find((each) => each.what === what) };
}

test("what a host has is named", async () => {
  const { find } = await check("[hypervisor.qemu]\nshared_fs = 'virtio-9p'\n[runtime]\ndata_dir = 'DIR/data'\n");
  expect(find("root")?.verdict).toBe("ok");
  expect(find("configuration")?.verdict).toBe("ok");
  expect(find("qemu")).toMatchObject({ verdict: "ok", detail: expect.stringMatching(/version \d+\.\d+\.\d+$/) });
  expect(find("shared directory")).toMatchObject({ verdict: "ok", detail: "virtio-9p" });
  expect(find("transport")).toMatchObject({
    verdict: "ok",
    detail: expect.stringMatching(/^(virtio-serial|vsock by)/),
  });
  expect(find("pool")).toMatchObject({ verdict: "ok", detail: "not configured" });
  expect(find("template")).toMatchObject({ verdict: "ok", detail: "not enabled" });
});

test("a template that is wanted and not there is a warning: VMs are booted", async () => {
  const template = "[factory]\nenable_template = true\ntemplate_path = 'DIR/template'\n";
  const { find } = await check(
    `${template}[hypervisor.qemu]\nshared_fs = 'virtio-9p'\n[runtime]\ndata_dir = 'DIR/data'\n`,
  );
  expect(find("template")).toMatchObject({ verdict: "warning", detail: expect.stringContaining("there is none") });
});

test.each([
  ["[hypervisor.qemu]\npath = 'DIR/nowhere'\n", "qemu", "missing", "nowhere"],
  ["[hypervisor.qemu]\npath = 'DIR/bin/old-qemu'\n", "qemu", "missing", "version 4.2.1 is older than"],
  ["[hypervisor.qemu]\npath = 'DIR/bin/no-qemu'\n", "qemu", "missing", "does not say its version"],
  ["[hypervisor.qemu]\nvirtio_fs_daemon = 'DIR/nowhere'\n", "shared directory", "missing", "find virtiofsd"],
  [
    "[hypervisor.qemu]\nkernel = 'DIR/nowhere'\ninitrd = '/dev/null'\nimage = '/dev/null'\n",
    "guest",
    "missing",
    "find kernel of [hypervisor.qemu]",
  ],
  ["[hypervisor.qemu]\nkernel = '/dev/null'\n", "configuration", "missing", "kernel set without initrd and image"],
  ["[hypervisor.qemu]\ndefault_memory = 1048576\n", "memory", "missing", "1048576 MiB for a VM"],
  ["[hypervisor.qemu\n", "configuration", "missing", "line 1, column"],
])("%j: %s is %s", async (config, what, verdict, detail) => {
  const { exitCode, find } = await check(config);
  expect([exitCode, find(what)]).toEqual([1, { what, verdict, detail: expect.stringContaining(detail) }]);
});

test("a pool that does not answer is a warning", async () => {
  const { find } = await check("[factory]\nvm_cache_number = 1\nvm_cache_endpoint = 'DIR/cache.sock'\n");
  expect(find("pool")).toMatchObject({ verdict: "warning" });
});
