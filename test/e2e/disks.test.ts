/** Block devices of the host: a root file system on one that the host has mounted, and mounts of one that nobody has. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { makeRootfs } from "../harness/busybox.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";

const TIMEOUT_MS = 180_000;
const ID = `disks-${process.pid}`;

let files: Scratch;
/** A disk with an ext4 of its own. */
let disk: string;
beforeEach(async () => {
  files = scratch();
  const image = files.path("disk.img");
  writeFileSync(image, "");
  truncateSync(image, 64 * 1024 * 1024);
  await runOrThrow(["mkfs.ext4", "-q", "-F", image]);
  disk = (await runOrThrow(["losetup", "--find", "--show", image])).trim();
});
afterEach(async () => {
  await runOrThrow(["losetup", "--detach", disk]);
  files[Symbol.dispose]();
});

/** The disk mounted on the host for as long as `body` takes. */
async function mounted(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = files.path("mounted");
  mkdirSync(dir, { recursive: true });
  await runOrThrow(["mount", disk, dir]);
  try {
    await body(dir);
  } finally {
    await runOrThrow(["umount", dir]);
  }
}

const withDisk = (...options: string[]): unknown[] => {
  const { mounts } = bundleConfig({ args: [] });
  return [...(Array.isArray(mounts) ? mounts : []), { destination: "/disk", type: "ext4", source: disk, options }];
};

async function run(hearth: Hearth, bundle: string, id = ID): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(["run", "--bundle", bundle, id]);
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

test.each(["virtio-fs", "virtio-9p"] as const)(
  "a root file system on a disk that the host has mounted comes over %s",
  async (sharedFs) => {
    await mounted(async (dir) => {
      await withHearth({ config: { hypervisor: { shared_fs: sharedFs } } }, async (hearth) => {
        await makeRootfs(join(dir, "rootfs"));
        const bundle = await hearth.bundle({
          args: ["sh", "-c", "echo written >/kept && cat /kept && stat -c %a /bin/busybox"],
          config: { root: { path: join(dir, "rootfs") } },
        });
        expect(await run(hearth, bundle)).toMatch(/^written\n\d+\n$/);
        expect(await Bun.file(join(dir, "rootfs/kept")).text()).toBe("written\n");
      });
    });
  },
  TIMEOUT_MS,
);

describe("a mount of a disk", () => {
  test(
    "is made in the guest, with its options; what was written is on the disk when the container has gone",
    async () => {
      await withHearth({}, async (hearth) => {
        const script = `grep ' /disk ' /proc/mounts; [ -b /dev/vda ] && echo "sees a disk"
          dd if=/dev/urandom of=/disk/data bs=1M count=20 2>/dev/null; sha256sum </disk/data`;
        const bundle = await hearth.bundle({
          args: ["sh", "-c", script],
          config: { mounts: withDisk("rw", "noatime", "nodev") },
        });
        const [mount, sum] = (await run(hearth, bundle)).trimEnd().split("\n");
        expect(mount).toMatch(/^\/dev\/vd[a-z] \/disk ext4 rw,nodev,noatime/);
        await mounted(async (dir) => {
          expect(await runOrThrow(["sh", "-c", `sha256sum <${dir}/data`])).toBe(`${sum}\n`);
        });

        const reader = await hearth.bundle({
          args: ["sh", "-c", "touch /disk/no 2>&1; sha256sum </disk/data"],
          config: { mounts: withDisk("ro") },
        });
        expect(await run(hearth, reader)).toBe(`touch: /disk/no: Read-only file system\n${sum}\n`);
      });
    },
    TIMEOUT_MS,
  );

  test(
    "is the VM's alone, and its pod's containers share it",
    async () => {
      await withHearth({}, async (hearth) => {
        const annotations = (type: string): Record<string, string> => ({
          "io.kubernetes.cri.container-type": type,
          "io.kubernetes.cri.sandbox-id": ID,
        });
        const start = async (id: string, config: Record<string, unknown>): Promise<string> => {
          const bundle = await hearth.bundle({ args: ["sleep", "100000"], config });
          const outputPath = join(bundle, "output");
          const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], { outputPath });
          return status === 0 ? "" : await Bun.file(outputPath).text();
        };
        expect(await start(ID, { annotations: annotations("sandbox") })).toBe("");
        for (const name of ["one", "two"]) {
          expect(await start(`${ID}-${name}`, { annotations: annotations("container"), mounts: withDisk() })).toBe("");
        }
        await hearth.runtime(["exec", `${ID}-one`, "sh", "-c", "echo shared >/disk/file"]);
        expect((await hearth.runtime(["exec", `${ID}-two`, "cat", "/disk/file"])).stdout).toBe("shared\n");

        expect(await start(`${ID}-other`, { mounts: withDisk() })).toContain(
          `use disk ${disk}: it is in use on the host or by another VM`,
        );
        await expect(mounted(async () => {})).rejects.toThrow(/busy|already mounted/);

        // The last container that has it lets it go, while the VM runs on.
        await hearth.runtime(["delete", "--force", `${ID}-one`]);
        expect((await hearth.runtime(["exec", `${ID}-two`, "cat", "/disk/file"])).stdout).toBe("shared\n");
        await hearth.runtime(["delete", "--force", `${ID}-two`]);
        await mounted(async (dir) => {
          expect(await Bun.file(join(dir, "file")).text()).toBe("shared\n");
        });
        expect(await start(`${ID}-one`, { annotations: annotations("container"), mounts: withDisk("ro") })).toBe("");
        for (const id of [`${ID}-one`, ID]) await hearth.runtime(["delete", "--force", id]);
      });
    },
    TIMEOUT_MS,
  );

  test(
    "fails as a whole: what is no disk, what the host has mounted, and a step that fails",
    async () => {
      await withHearth({}, async (hearth) => {
        const refused = async (config: Record<string, unknown>, env = {}): Promise<string> => {
          const bundle = await hearth.bundle({ args: ["true"], config });
          const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], { env });
          expect(status).toBe(1);
          return stderr;
        };
        const file = { destination: "/disk", type: "ext4", source: files.path("disk.img") };
        expect(await refused({ mounts: [file] })).toContain("mount /disk");
        await mounted(async () => {
          expect(await refused({ mounts: withDisk() })).toContain("in use on the host");
        });
        expect(await refused({ mounts: withDisk() }, { HEARTH_FAIL_AT: "plug-disks" })).toContain("fault injected");
        expect(await refused({ mounts: withDisk() }, { HEARTH_FAIL_AT: "create-container" })).toContain(
          "fault injected",
        );
        expect(await refused({ mounts: withDisk("nonsense=1") })).toContain("mount");
        await mounted(async () => {});
      });
    },
    TIMEOUT_MS,
  );
});
