/**
 * Engines enter a container by the pid that `state` tells, to copy files or to look at processes. What they find there is the
 * container's, as far as the host has it, and nothing of the host's.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { namespaceName } from "../../src/sys/namespace.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";

const TIMEOUT_MS = 120_000;
const ID = "entered";

let opened: OpenHearth;
let hearth: Hearth;
let bundle: string;
let pid: number;

beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  const [volume, fixed] = [join(hearth.dir, "volume"), join(hearth.dir, "fixed")];
  for (const dir of [volume, fixed]) mkdirSync(dir);
  writeFileSync(join(volume, "file"), "of the volume\n");
  writeFileSync(join(fixed, "file"), "fixed\n");
  const standard = bundleConfig({ args: [] })["mounts"];
  bundle = await hearth.bundle({
    args: ["sleep", "1000000"],
    config: {
      mounts: [
        ...(Array.isArray(standard) ? standard : []),
        { destination: "/run", type: "tmpfs", source: "tmpfs", options: [] },
        { destination: "/run/volume", type: "bind", source: volume, options: ["rbind"] },
        { destination: "/linked/fixed", type: "bind", source: fixed, options: ["rbind", "ro"] },
        { destination: "/tmp-link", type: "tmpfs", source: "tmpfs", options: [] },
        { destination: "/etc/one", type: "bind", source: join(fixed, "file"), options: ["bind"] },
      ],
    },
  });
  mkdirSync(join(bundle, "rootfs/real"));
  symlinkSync("real", join(bundle, "rootfs/linked"));
  symlinkSync("tmp", join(bundle, "rootfs/tmp-link"));
  // Resolved on the host it would lead to the host's root.
  symlinkSync("../../../../../../..", join(bundle, "rootfs/out"));
  const outputPath = join(bundle, "output");
  const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, ID], { outputPath });
  if (status !== 0) throw new Error(`${readFileSync(outputPath, "utf8")}${opened.describe()}`);
  const state: unknown = JSON.parse((await hearth.runtime(["state", ID])).stdout);
  if (typeof state !== "object" || state === null || !("pid" in state)) throw new Error("no pid");
  pid = Number(state.pid);
}, TIMEOUT_MS);

afterAll(async () => {
  await hearth.runtime(["delete", "--force", ID]);
  await opened.close();
}, TIMEOUT_MS);

const inside = (...names: string[]) => join(`/proc/${pid}/root`, ...names);
async function exec(script: string): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(["exec", ID, "sh", "-c", script]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

test("its root is the container's, and what is written there the container has", async () => {
  expect(namespaceName(`/proc/${pid}/ns/mnt`)).not.toBe(namespaceName("/proc/self/ns/mnt"));
  expect(readFileSync(inside("etc/passwd"), "utf8")).toBe(readFileSync(join(bundle, "rootfs/etc/passwd"), "utf8"));
  writeFileSync(inside("written"), "from the host\n");
  expect(await exec("cat /written; echo reply >/reply")).toBe("from the host\n");
  expect(readFileSync(inside("reply"), "utf8")).toBe("reply\n");
  expect(readdirSync(inside()).sort()).toEqual(readdirSync(join(bundle, "rootfs")).sort());
});

test("volumes are where the container has them, and read-only where it has them so", async () => {
  expect(readFileSync(inside("run/volume/file"), "utf8")).toBe("of the volume\n");
  writeFileSync(inside("run/volume/new"), "new\n");
  expect(await exec("cat /run/volume/new")).toBe("new\n");
  expect(readFileSync(inside("real/fixed/file"), "utf8")).toBe("fixed\n");
  expect(readFileSync(inside("etc/one"), "utf8")).toBe("fixed\n");
  expect(() => writeFileSync(inside("real/fixed/new"), "")).toThrow("EROFS");
});

test("what only the guest has is empty and read-only, so that nothing gets lost there", () => {
  for (const dir of ["run", "tmp", "dev", "dev/shm", "sys"]) {
    expect(() => writeFileSync(inside(dir, "new"), "")).toThrow("EROFS");
  }
  expect(readdirSync(inside("run"))).toEqual(["volume"]);
});

test("no link of the container's leads to the host's files, and nothing can be written in /proc", () => {
  const entered = Bun.spawnSync(["nsenter", `--target=${pid}`, "--mount", "/bin/busybox", "ls", "/out"]);
  expect(entered.stdout.toString().trim().split("\n")).toEqual(readdirSync(join(bundle, "rootfs")).sort());
  expect(existsSync(inside("proc/sys/kernel"))).toBeTrue();
  expect(() => writeFileSync(inside("proc/sys/kernel/domainname"), "x")).toThrow("EROFS");
});

test("its /proc has no process of the host, so that a link to one's root leads nowhere else", () => {
  expect(readdirSync(inside("proc")).filter((name) => /^\d+$/.test(name))).toEqual(["1"]);
  const ours = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const links = ["self", ...ours].map((process) => {
    symlinkSync(`/proc/${process}/root`, join(bundle, `rootfs/root-of-${process}`));
    return `/root-of-${process}/`;
  });
  const { stdout, stderr } = Bun.spawnSync([
    ...["nsenter", `--target=${pid}`, "--mount", "--pid"],
    ...["/bin/busybox", "stat", "-c", "%d:%i", "/", ...links],
  ]);
  // A process of the container's may have the number of one of ours, and has the root that all have there.
  const [ownRoot, ...others] = stdout.toString().trim().split("\n");
  expect(others.length).toBeGreaterThan(0);
  expect(others.filter((root) => root !== ownRoot)).toEqual([]);
  const missing = stderr.toString().trim().split("\n");
  expect(missing.filter((line) => !line.endsWith("No such file or directory"))).toEqual([]);
  expect(others.length + missing.length).toBe(links.length);
});
