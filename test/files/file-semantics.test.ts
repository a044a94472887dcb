/** What a directory shared into a container does: the same program in a VM and under runc, on the same host, line by line. */
import { describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { type BundleOptions, bundleConfig, makeBundle } from "../harness/bundle.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { mustRunProgram } from "../harness/program.ts";
import { scratch } from "../harness/scratch.ts";

const VM_TEST_TIMEOUT_MS = 300_000;
const PROGRAM = join(import.meta.dir, "file-semantics.pl");
const CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "SETGID", "SETUID"].map(
  (name) => `CAP_${name}`,
);

/** Cases that end otherwise than on the host itself: how, and why. */
type Differences = Readonly<Record<string, { readonly said: string; readonly why: string }>>;

const NOT_IN_9P = "the protocol has no such request";
const BY_NAME = "the server finds files by name, also for a file that is open";
const DIRECTORIES_AND_FILES = "since its fix for CVE-2023-2861, QEMU's server opens regular files and directories only";

const SHARES: readonly { readonly sharedFs: "virtio-fs" | "virtio-9p"; readonly differences: Differences }[] = [
  {
    sharedFs: "virtio-fs",
    differences: { "file without a name": { said: "ENOTSUP", why: "FUSE has no O_TMPFILE before Linux 6.2" } },
  },
  {
    sharedFs: "virtio-9p",
    differences: {
      "file without a name": { said: "ENOTSUP", why: NOT_IN_9P },
      "renameat2 that exchanges": { said: "EINVAL, 12", why: NOT_IN_9P },
      fallocate: { said: "ENOTSUP, 0", why: NOT_IN_9P },
      "punch a hole": { said: "ENOTSUP, 0 zeros", why: NOT_IN_9P },
      "hole and data": { said: "data at 0 but true", why: NOT_IN_9P },
      "chmod after unlink": { said: "ENOENT, 644", why: BY_NAME },
      "truncate after unlink": { said: "ENOENT, 100", why: BY_NAME },
      fifo: { said: "ENXIO", why: DIRECTORIES_AND_FILES },
      "device node": { said: "ENXIO", why: DIRECTORIES_AND_FILES },
      "unix socket": { said: "ENXIO", why: DIRECTORIES_AND_FILES },
      "times to the nanosecond": {
        said: "ok, 1000000000 1100000000, 000000000 000000000",
        why: "Linux 6.1 keeps whole seconds for 9p",
      },
      "a write of another user clears set-user-id": {
        said: "written, 6777",
        why: "the guest's kernel leaves it to the server, where root writes",
      },
    },
  },
];

/** A bundle that runs the program in `work`, with the host's perl. */
async function programBundle(dir: string, work: string): Promise<string> {
  const capabilities = { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES };
  const options: BundleOptions = {
    args: ["/usr/bin/perl", "/file-semantics.pl", "/work"],
    config: { process: { capabilities } },
  };
  const base = bundleConfig(options);
  const mounts = Array.isArray(base["mounts"]) ? base["mounts"] : [];
  const binds = [
    { destination: "/usr", type: "bind", source: "/usr", options: ["rbind", "ro"] },
    { destination: "/work", type: "bind", source: work, options: ["rbind", "rw"] },
  ];
  await makeBundle(dir, { ...options, config: { ...options.config, mounts: [...mounts, ...binds] } });
  for (const name of ["lib", "lib64"]) symlinkSync(`usr/${name}`, join(dir, "rootfs", name));
  copyFileSync(PROGRAM, join(dir, "rootfs/file-semantics.pl"));
  return dir;
}

function casesOf(output: string): Record<string, string> {
  const lines = output.trimEnd().split("\n");
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]),
  );
}

async function underRunc(): Promise<Record<string, string>> {
  using directory = scratch();
  const work = join(directory.dir, "work");
  mkdirSync(work);
  const bundle = await programBundle(join(directory.dir, "bundle"), work);
  const { stdout } = await mustRunProgram(["runc", "run", "--bundle", bundle, `hearth-files-${process.pid}`]);
  return casesOf(stdout);
}

async function inVm(hearth: Hearth): Promise<Record<string, string>> {
  const work = join(hearth.dir, "work");
  mkdirSync(work);
  const bundle = await programBundle(join(hearth.dir, "bundle"), work);
  const { status, stdout, stderr } = await hearth.runtime(["run", "--bundle", bundle, "files"], { timeoutMs: 240_000 });
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  rmSync(work, { recursive: true });
  return casesOf(stdout);
}

describe.each(SHARES)("over $sharedFs", ({ sharedFs, differences }) => {
  test(
    "every case ends as it does under runc",
    async () => {
      const expected = await underRunc();
      expect(Object.keys(expected).length).toBeGreaterThanOrEqual(100);
      await withHearth({ config: { hypervisor: { shared_fs: sharedFs } } }, async (hearth) => {
        const known = Object.entries(differences).map(([name, { said }]) => [name, said]);
        expect(await inVm(hearth)).toEqual({ ...expected, ...Object.fromEntries(known) });
      });
    },
    VM_TEST_TIMEOUT_MS,
  );
});
