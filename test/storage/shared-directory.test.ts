/** The shared directory on the host: mounts, propagation, what may be exposed where, and that nothing is left. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { HearthError } from "../../src/errors.ts";
import { vmPaths } from "../../src/paths.ts";
import { openSharedDirectory, type SharedDirectory } from "../../src/storage/shared-directory.ts";
import {
  bindMount,
  listMounts,
  makePrivate,
  makeShared,
  mount,
  mountsUnder,
  unmountTree,
} from "../../src/sys/mount.ts";
import { isAlive, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { rejection } from "../harness/rejection.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";

const VIRTIOFSD = "/usr/lib/qemu/virtiofsd";

let place: Scratch;
beforeEach(() => {
  place = scratch();
});
afterEach(() => {
  unmountTree(place.dir, { detach: true });
  place[Symbol.dispose]();
});

function paths(): ReturnType<typeof vmPaths> {
  const made = vmPaths(place.dir, "v");
  mkdirSync(made.dir, { recursive: true, mode: 0o700 });
  return made;
}

function open(sharedFs: "virtio-fs" | "virtio-9p" = "virtio-9p", virtiofsdPath = VIRTIOFSD): Promise<SharedDirectory> {
  return openSharedDirectory({ paths: paths(), sharedFs, virtiofsdPath });
}

function source(): string {
  const dir = place.path("source");
  mkdirSync(dir);
  writeFileSync(join(dir, "f"), "content");
  return dir;
}

describe("openSharedDirectory", () => {
  test("what an engine mounted in a mount namespace of its own is exposed from there", async () => {
    const hidden = place.path("hidden");
    mkdirSync(hidden);
    const script = `mount -t tmpfs engine ${hidden}; echo content >${hidden}/f; echo ready; exec sleep 1000`;
    const engine = Bun.spawn(["unshare", "--mount", "sh", "-c", script], { stdout: "pipe" });
    try {
      for await (const _ready of engine.stdout) break;
      await using directory = await open();
      const mountNamespace = `/proc/${engine.pid}/ns/mnt`;
      await using _exposed = await directory.expose(hidden, "c1/rootfs", { mountNamespace });
      expect(readFileSync(join(paths().served, "c1/rootfs/f"), "utf8")).toBe("content\n");
      // We are back where we were.
      expect(readdirSync(hidden)).toEqual([]);
      expect(await rejection(directory.expose(join(hidden, "f"), "c1/f"))).toMatchObject({ code: "not-found" });
    } finally {
      engine.kill();
      await engine.exited;
    }
  });

  test("what is exposed is served, and undone with its mount point", async () => {
    const { shared, served } = paths();
    await using directory = await open();
    expect(directory.device).toEqual({
      kind: "shared-directory-9p",
      tag: "hearthShared",
      path: served,
      readOnly: false,
    });
    const exposed = await directory.expose(source(), "c1/rootfs");
    expect(readFileSync(join(served, "c1/rootfs/f"), "utf8")).toBe("content");
    writeFileSync(join(served, "c1/rootfs/g"), "from the guest");
    expect(readFileSync(place.path("source/g"), "utf8")).toBe("from the guest");
    await exposed[Symbol.asyncDispose]();
    expect(readdirSync(shared)).toEqual([]);
    expect(existsSync(place.path("source/f"))).toBe(true);
    await exposed[Symbol.asyncDispose]();
  });

  test("what is exposed after somebody has cut its mounts off does not reach the guest: it fails, and says so", async () => {
    const { shared, served } = paths();
    await using directory = await open();
    await using _before = await directory.expose(source(), "c1/rootfs");
    // As mount --make-rprivate / does.
    for (const path of [shared, served]) makePrivate(path, true);
    expect(await rejection(directory.expose(place.path("source"), "c2/rootfs"))).toMatchObject({
      code: "failed-precondition",
      message: `expose ${place.path("source")}: it does not appear in ${served}, whose mounts are no longer shared`,
    });
    expect(readdirSync(shared)).toEqual(["c1"]);
  });

  test("undone in any order", async () => {
    const { shared } = paths();
    await using directory = await open();
    const dir = source();
    const first = await directory.expose(dir, "c1/rootfs");
    const second = await directory.expose(join(dir, "f"), "c1/mounts/0");
    await first[Symbol.asyncDispose]();
    expect(readFileSync(join(shared, "c1/mounts/0"), "utf8")).toBe("content");
    await second[Symbol.asyncDispose]();
    expect(readdirSync(shared)).toEqual([]);
  });

  test("the guest's view cannot be written to outside of what is exposed", async () => {
    const { served } = paths();
    await using directory = await open();
    await directory.expose(source(), "c1/rootfs");
    expect(() => symlinkSync("/etc", join(served, "c1", "mounts"))).toThrow("EROFS");
    expect(() => mkdirSync(join(served, "x"))).toThrow("EROFS");
  });

  test("read-only is read-only in the guest's view, below too", async () => {
    const { served } = paths();
    const dir = source();
    mkdirSync(join(dir, "inner"));
    mount({ source: "hearth", target: join(dir, "inner"), type: "tmpfs" });
    await using directory = await open();
    await directory.expose(dir, "c1/rootfs", { readOnly: true });
    expect(() => writeFileSync(join(served, "c1/rootfs/f"), "")).toThrow("EROFS");
    expect(() => writeFileSync(join(served, "c1/rootfs/inner/f"), "")).toThrow("EROFS");
    writeFileSync(join(dir, "f"), "changed on the host");
    expect(readFileSync(join(served, "c1/rootfs/f"), "utf8")).toBe("changed on the host");
  });

  test("undoing leaves the mounts of a shared source alone", async () => {
    const dir = source();
    bindMount(dir, dir);
    makePrivate(dir);
    makeShared(dir);
    mkdirSync(join(dir, "inner"));
    mount({ source: "hearth", target: join(dir, "inner"), type: "tmpfs" });
    writeFileSync(join(dir, "inner", "kept"), "");
    await using directory = await open();
    const exposed = await directory.expose(dir, "c1/rootfs");
    expect(existsSync(join(paths().served, "c1/rootfs/inner/kept"))).toBe(true);
    await exposed[Symbol.asyncDispose]();
    expect(existsSync(join(dir, "inner", "kept"))).toBe(true);
  });

  test("not recursive: what is mounted below the path stays out", async () => {
    const dir = source();
    mkdirSync(join(dir, "inner"));
    mount({ source: "hearth", target: join(dir, "inner"), type: "tmpfs" });
    writeFileSync(join(dir, "inner", "f"), "");
    await using directory = await open();
    await directory.expose(dir, "c1/rootfs", { recursive: false });
    expect(readdirSync(join(paths().served, "c1/rootfs/inner"))).toEqual([]);
  });

  test.each([
    ["../x", "invalid-argument"],
    ["a/../../x", "invalid-argument"],
    ["/x", "invalid-argument"],
    ["", "invalid-argument"],
    ["a//b", "invalid-argument"],
    ["a\0b", "invalid-argument"],
    ["c1/rootfs/etc", "invalid-argument"],
    ["c1", "invalid-argument"],
    ["c1/rootfs", "already-exists"],
  ])("refuses to expose at %p", async (relativePath, code) => {
    await using directory = await open();
    const dir = source();
    await directory.expose(dir, "c1/rootfs");
    const error = await rejection(directory.expose(dir, relativePath));
    expect(error).toBeInstanceOf(HearthError);
    expect(error).toMatchObject({ code });
    expect(readdirSync(paths().shared)).toEqual(["c1"]);
  });

  test("a missing path is named, and leaves nothing", async () => {
    await using directory = await open();
    const error = await rejection(directory.expose(place.path("nothing"), "c1/rootfs"));
    expect(error).toMatchObject({ code: "not-found" });
    expect(String(error)).toContain(place.path("nothing"));
    expect(readdirSync(paths().shared)).toEqual([]);
  });

  test("disposing takes every mount away, exposed ones too, twice is once", async () => {
    const { dir } = paths();
    const directory = await open();
    await directory.expose(source(), "c1/rootfs");
    await directory[Symbol.asyncDispose]();
    expect(mountsUnder(dir)).toEqual([]);
    await directory[Symbol.asyncDispose]();
    expect(await rejection(directory.expose(place.path("source"), "c2"))).toMatchObject({
      code: "failed-precondition",
    });
  });

  test("mounts do not show up where the run directory's own mount is shared", async () => {
    bindMount(place.dir, place.dir);
    makePrivate(place.dir);
    makeShared(place.dir);
    const peer = `${place.dir}-peer`;
    mkdirSync(peer);
    bindMount(place.dir, peer);
    try {
      const before = mountsUnder(peer).length;
      await using directory = await open();
      const exposed = await directory.expose(source(), "c1/rootfs");
      const below = mountsUnder(peer).map((entry) => entry.mountPoint);
      expect(below).not.toContain(join(peer, "vm/v/shared/c1/rootfs"));
      await exposed[Symbol.asyncDispose]();
      await directory[Symbol.asyncDispose]();
      expect(mountsUnder(peer).length).toBe(before);
    } finally {
      unmountTree(peer, { detach: true });
      rmdirSync(peer);
    }
  });
});

test("an overlay appears in the shared directory, and nowhere else", async () => {
  const [lower, upper, work] = ["lower", "upper", "work"].map((name) => {
    mkdirSync(place.path(name));
    return place.path(name);
  });
  writeFileSync(place.path("lower/f"), "low");
  const before = listMounts().length;
  await using directory = await open();
  const mounted = listMounts().length;
  const overlay = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  const exposed = await directory.expose(place.dir, "c1/0/overlay", { overlay });
  expect(readFileSync(join(paths().served, "c1/0/overlay/f"), "utf8")).toBe("low");
  writeFileSync(join(paths().served, "c1/0/overlay/f"), "changed");
  expect(readFileSync(place.path("upper/f"), "utf8")).toBe("changed");
  // In what the host fills, and in what the guest is served.
  expect(listMounts().length).toBe(mounted + 2);
  await exposed[Symbol.asyncDispose]();
  expect(listMounts().length).toBe(mounted);
  const missing = { overlay: "lowerdir=/nothing" };
  expect(await rejection(directory.expose(place.dir, "c1/1", missing))).toMatchObject({
    code: "not-found",
    message: "mount overlay with lowerdir=/nothing",
  });
  await directory[Symbol.asyncDispose]();
  expect(listMounts().length).toBe(before);
});

describe("virtiofsd", () => {
  test("listens when the directory is open, and is gone after", async () => {
    const directory = await open("virtio-fs");
    const [daemon] = directory.processes;
    if (daemon === undefined) throw new Error("no process");
    expect(isAlive(daemon)).toBe(true);
    const client = await connectUnix(paths().virtiofsdSocket);
    client.close();
    await directory[Symbol.asyncDispose]();
    expect(isAlive(daemon)).toBe(false);
    expect(mountsUnder(paths().dir)).toEqual([]);
  });

  test("its death is known, with what it said", async () => {
    await using directory = await open("virtio-fs");
    const [daemon] = directory.processes;
    if (daemon === undefined) throw new Error("no process");
    signalProcess(daemon, SIGKILL);
    const failure = await directory.failed;
    expect(failure.message).toContain("virtiofsd has ended: signal SIGKILL");
  });

  test.each([
    ["missing", "/nonexistent/virtiofsd", "not-found"],
    ["something else", "/bin/true", "failed-precondition"],
  ])("%s: named, with a hint, and nothing mounted", async (_, path, code) => {
    const error = await rejection(open("virtio-fs", path));
    expect(error).toMatchObject({ code, hint: expect.stringContaining("virtio_fs_daemon") });
    expect(mountsUnder(paths().dir)).toEqual([]);
  });

  test("the Rust one gets its own spelling", async () => {
    const fake = place.path("virtiofsd");
    writeFileSync(
      fake,
      `#!/bin/sh\nif [ "$1" = --version ]; then echo "virtiofsd 1.13.2"; exit 0; fi\necho "$@" >${place.path("args")}\nexit 7\n`,
    );
    chmodSync(fake, 0o755);
    await using directory = await open("virtio-fs", fake);
    expect((await directory.failed).message).toContain("exit status 7");
    expect(readFileSync(place.path("args"), "utf8").trim().split(" ")).toEqual([
      "--fd=3",
      `--shared-dir=${paths().served}`,
      "--sandbox=namespace",
      "--cache=auto",
      "--xattr",
      "--log-level=warn",
    ]);
  });
});
