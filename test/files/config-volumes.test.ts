/** Kubernetes' secrets, config maps and the like: what a program sees and is told of, as its kubelet changes them on the host. */
import { expect, test } from "bun:test";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { MIRRORED_BYTES_MAX } from "../../src/limits.ts";
import { vmPaths } from "../../src/paths.ts";
import { mount, unmount } from "../../src/sys/mount.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { copyProgram } from "../harness/copy-program.ts";
import { eventually } from "../harness/eventually.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { PATH, type ProgramResult, runProgram } from "../harness/program.ts";

const VM_TEST_TIMEOUT_MS = 120_000;
const SEEN_TIMEOUT_MS = 30_000;
/** Of a second, as the guest may believe what it knows of a shared file for so long. */
const LOOK_PAUSE_MS = 200;

/** Prints a line for each event in /volume: IN_CREATE, IN_DELETE, IN_MOVED_FROM and IN_MOVED_TO. Source: inotify(7), syscall numbers of x86-64. */
const WATCHER = `
  $| = 1; my $fd = syscall(294, 0); my $dir = "/volume"; syscall(254, $fd, $dir, 0x3c0) >= 0 or die "watch: $!";
  open(my $events, "<&=", $fd) or die; print "watching\\n";
  while (sysread($events, my $some, 65536)) {
    while (length $some) {
      my ($watch, $mask, $cookie, $length) = unpack("iIII", $some);
      printf "%x %s\\n", $mask, unpack("Z*", substr($some, 16, $length));
      substr($some, 0, 16 + $length) = "";
    }
  }`;

/** As a kubelet writes: a directory of the new version, the link to it swapped, links to new keys, and the old version goes. */
function write(volume: string, version: string, files: Readonly<Record<string, string>>, old?: string): void {
  mkdirSync(join(volume, version));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(volume, version, name), content);
  symlinkSync(version, join(volume, "..data_tmp"));
  renameSync(join(volume, "..data_tmp"), join(volume, "..data"));
  if (old === undefined) for (const name of Object.keys(files)) symlinkSync(`..data/${name}`, join(volume, name));
  else rmSync(join(volume, old), { recursive: true });
}

function makeVolume(dir: string, kind: string, name: string): string {
  const volume = join(dir, `pods/1/volumes/kubernetes.io~${kind}/${name}`);
  mkdirSync(volume, { recursive: true });
  return volume;
}

const bind = (source: string, destination: string, ...options: string[]) => {
  return { destination, type: "bind", source, options: ["rbind", ...options] };
};

async function bundleWith(hearth: Hearth, args: string[], binds: readonly object[], config: object = {}) {
  const base = bundleConfig({ args: [] });
  const mounts = Array.isArray(base["mounts"]) ? base["mounts"] : [];
  return await hearth.bundle({ args, config: { ...config, mounts: [...mounts, ...binds] } });
}

async function sh(hearth: Hearth, id: string, script: string): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(["exec", id, "sh", "-c", script]);
  expect({ script, status, stderr }).toEqual({ script, status: 0, stderr: "" });
  return stdout.trimEnd();
}

const sandboxLogs = ({ runDir }: Hearth): string =>
  readdirSync(join(runDir, "vm"))
    .map((id) => readFileSync(vmPaths(runDir, id).sandboxLog, "utf8"))
    .join("");

type Runtime = (args: string[], options?: { readonly outputPath?: string }) => Promise<ProgramResult>;

/** What a watcher in a container is told of an update, and of one that takes a key away. */
async function eventsOf(runtime: Runtime, hearth: Hearth, name: string): Promise<string[]> {
  const volume = makeVolume(join(hearth.dir, name), "configmap", "settings");
  write(volume, "..v1", { key: "one", other: "x" });
  const bundle = await bundleWith(hearth, ["/usr/bin/perl", "-e", WATCHER], [bind(volume, "/volume", "ro")]);
  await copyProgram("/usr/bin/perl", join(bundle, "rootfs"));
  const outputPath = join(hearth.dir, `${name}.out`);
  const output = () => readFileSync(outputPath, "utf8");
  const seen = (line: string) => eventually(line, () => output().includes(line) || undefined, SEEN_TIMEOUT_MS);
  expect((await runtime(["run", "--detach", "--bundle", bundle, name], { outputPath })).status).toBe(0);
  try {
    await seen("watching");
    write(volume, "..v2", { key: "two", other: "x" }, "..v1");
    await seen("200 ..v1");
    unlinkSync(join(volume, "other"));
    await seen("200 other");
    expect((await runtime(["exec", name, "cat", "/volume/key"])).stdout).toBe("two");
  } finally {
    await runtime(["delete", "--force", name]);
  }
  return output()
    .trimEnd()
    .split("\n")
    .map((line) => line.replace(/^40000/, ""));
}

test(
  "a watcher is told of a change as under runc",
  async () => {
    await withHearth({}, async (hearth) => {
      const runc: Runtime = (args, options) =>
        runProgram(["runc", "--root", join(hearth.dir, "runc"), ...args], { env: { PATH }, ...options });
      const ours = await eventsOf((args, options) => hearth.runtime(args, options), hearth, "ours");
      expect(ours).toEqual(await eventsOf(runc, hearth, "runcs"));
      expect(ours).toContain("80 ..data");
    });
  },
  VM_TEST_TIMEOUT_MS,
);

test(
  "volumes are file systems apart, read-only, those of a pod's containers the same, and as they are now for one that comes later",
  async () => {
    await withHearth({}, async (hearth) => {
      // Each on a tmpfs of its own, as a kubelet has them: with the same inode numbers.
      const volumes = ["a", "b"].map((name) => makeVolume(hearth.dir, "secret", name));
      for (const volume of volumes) mount({ source: "tmpfs", target: volume, type: "tmpfs", data: "size=1m,mode=777" });
      try {
        for (const volume of volumes) write(volume, "..v1", { key: volume });
        const binds = volumes.map((volume, index) => bind(volume, `/${index}`, "ro"));
        const pod = (kind: string) => ({
          annotations: { "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod" },
        });
        const run = async (id: string, kind: string) => {
          const bundle = await bundleWith(hearth, ["sleep", "100000"], binds, pod(kind));
          const started = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], {
            outputPath: join(hearth.dir, `${id}.out`),
          });
          expect(started.status).toBe(0);
        };
        await run("pod", "sandbox");
        const [first = "", second = ""] = volumes;
        expect(await sh(hearth, "pod", "cat /0/key; echo; cat /1/key")).toBe(`${first}\n${second}`);
        const [one, other] = (await sh(hearth, "pod", "stat -c %d:%i /0/..data/key /1/..data/key")).split("\n");
        expect(one).not.toBe(other);
        expect(await sh(hearth, "pod", "touch /0/key 2>/dev/null || stat -f -c %T /0")).toBe("tmpfs");

        write(first, "..v2", { key: "new" }, "..v1");
        await run("c2", "container");
        expect(await sh(hearth, "c2", "cat /0/key; echo; stat -c %d:%i /1/..data/key")).toBe(`new\n${other}`);
        await hearth.runtime(["delete", "--force", "c2"]);
        write(second, "..v2", { key: "newer" }, "..v1");
        const isSeen = async () => (await sh(hearth, "pod", "cat /1/key")) === "newer" || undefined;
        await eventually("the new version", isSeen, SEEN_TIMEOUT_MS, LOOK_PAUSE_MS);
      } finally {
        for (const id of ["c2", "pod"]) await hearth.runtime(["delete", "--force", id]);
        for (const volume of volumes) unmount(volume);
      }
    });
  },
  VM_TEST_TIMEOUT_MS,
);

test(
  "one that is too big, or may be written to, is shared; one that becomes too big stays as it was",
  async () => {
    await withHearth({}, async (hearth) => {
      const big = makeVolume(hearth.dir, "projected", "big");
      writeFileSync(join(big, "f"), Buffer.alloc(MIRRORED_BYTES_MAX + 1, "x"));
      const open = makeVolume(hearth.dir, "configmap", "open");
      const growing = makeVolume(hearth.dir, "configmap", "growing");
      write(growing, "..v1", { key: "small" });
      const binds = [bind(big, "/big", "ro"), bind(open, "/open"), bind(growing, "/growing", "ro")];
      const bundle = await bundleWith(hearth, ["sleep", "100000"], binds);
      const outputPath = join(hearth.dir, "output");
      expect((await hearth.runtime(["run", "--detach", "--bundle", bundle, "c1"], { outputPath })).status).toBe(0);
      try {
        expect(await sh(hearth, "c1", "stat -c %s /big/f; echo mine >/open/f")).toBe(String(MIRRORED_BYTES_MAX + 1));
        expect(readFileSync(join(open, "f"), "utf8")).toBe("mine\n");
        write(growing, "..v2", { key: "x".repeat(MIRRORED_BYTES_MAX + 1) }, "..v1");
        const isTold = () => sandboxLogs(hearth).includes("copy of a volume stays as it was") || undefined;
        await eventually("the sandbox process's log", isTold, SEEN_TIMEOUT_MS, LOOK_PAUSE_MS);
        expect(await sh(hearth, "c1", "cat /growing/key")).toBe("small");
        write(growing, "..v3", { key: "small again" }, "..v2");
        const isSeen = async () => (await sh(hearth, "c1", "cat /growing/key")) === "small again" || undefined;
        await eventually("the version after it", isSeen, SEEN_TIMEOUT_MS, LOOK_PAUSE_MS);
      } finally {
        await hearth.runtime(["delete", "--force", "c1"]);
      }
    });
  },
  VM_TEST_TIMEOUT_MS,
);
