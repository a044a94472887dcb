/** Bind mounts of a directory with a mount below it, which the guest has in one file system. */
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  bindMount,
  MOUNT_ATTR_NODEV,
  MS_NODEV,
  MS_NOSUID,
  mount,
  setMountAttributes,
  unmount,
} from "../../src/sys/mount.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { withHearth } from "../harness/hearth.ts";

const FLAGS = ["rw,nodev,relatime", "rw,nosuid,nodev,relatime", "rw,noexec,relatime"];
const TIMEOUT_MS = 120_000;

test.each(["virtio-fs", "virtio-9p"] as const)(
  "over %s: bind leaves it out, rbind,ro leaves it writable, rbind,rro does not; bound by itself it keeps its flags",
  async (sharedFs) => {
    await withHearth({ config: { hypervisor: { shared_fs: sharedFs } } }, async (hearth) => {
      const source = join(hearth.dir, "source");
      const below = join(source, "below");
      mkdirSync(below, { recursive: true });
      mount({ source: "hearth", target: below, type: "tmpfs", flags: MS_NODEV | MS_NOSUID });
      using undo = new DisposableStack();
      undo.defer(() => void unmount(below));
      writeFileSync(join(below, "file"), "mounted\n");
      const { mounts } = bundleConfig({ args: [] });
      const bind = (destination: string, ...options: string[]) => ({ destination, type: "bind", source, options });
      const script = `
        ls /bind/below
        for mount in /ro /rro; do
          cat $mount/below/file
          for file in $mount/x $mount/below/x; do echo $file >$file || echo $file is read-only; done 2>/dev/null
        done
        awk '$5 ~ "^/(kept|own)?$" {print $6}' /proc/self/mountinfo`;
      const bundle = await hearth.bundle({
        args: ["sh", "-c", script],
        config: {
          mounts: [
            ...(Array.isArray(mounts) ? mounts : []),
            bind("/bind", "bind"),
            bind("/ro", "rbind", "ro"),
            bind("/rro", "rbind", "rro"),
            { ...bind("/kept", "rbind", "rprivate"), source: below },
            { ...bind("/own", "rbind", "noexec"), source: below },
          ],
        },
      });
      const rootfs = join(bundle, "rootfs");
      bindMount(rootfs, rootfs);
      undo.defer(() => void unmount(rootfs));
      setMountAttributes(rootfs, { set: MOUNT_ATTR_NODEV, clear: 0n, recursive: false });
      const { status, stdout } = await hearth.runtime(["run", "--bundle", bundle, `below-${process.pid}`]);
      expect({ status, lines: stdout.trim().split("\n") }).toEqual({
        status: 0,
        lines: [
          "mounted",
          "/ro/x is read-only",
          "mounted",
          "/rro/x is read-only",
          "/rro/below/x is read-only",
          ...FLAGS,
        ],
      });
      expect(readFileSync(join(below, "x"), "utf8")).toBe("/ro/below/x\n");
    });
  },
  TIMEOUT_MS,
);
