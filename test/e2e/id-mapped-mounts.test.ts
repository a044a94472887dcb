/** Id-mapped mounts as the host has them: whose the files are that a container makes, with mounts below, and for who enters its root view. */
import { expect, test } from "bun:test";
import { chownSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mount, unmount } from "../../src/sys/mount.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { eventually } from "../harness/eventually.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";

const TIMEOUT_MS = 120_000;
const ids = (hostID: number) => [{ containerID: 0, hostID, size: 10 }];
const OWNERS = "1000 2000\n1000 2000\n1003 2004\n1000 2000\n3 4\n";
const { mounts: standard } = bundleConfig({ args: [] });

const withMounts = (hearth: Hearth, args: readonly string[], more: readonly object[], process: object) =>
  hearth.bundle({ args, config: { mounts: [...(Array.isArray(standard) ? standard : []), ...more], process } });

test(
  "files belong to those that the container's users are mapped from, below only with ridmap",
  async () => {
    await withHearth({}, async (hearth) => {
      const source = join(hearth.dir, "source");
      const below = join(source, "below");
      mkdirSync(below, { recursive: true });
      mount({ source: "hearth", target: below, type: "tmpfs", data: "mode=755" });
      try {
        writeFileSync(join(below, "old"), "");
        chownSync(join(below, "old"), 3, 4);
        const bind = { destination: "/m", type: "bind", source, options: ["rbind", "ridmap"] };
        const script =
          "touch /m/new /m/below/new && stat -c '%u %g' /m/new /m/below/new /m/below/old /n /n/below/old && sleep 1000";
        const user = { user: { uid: 1000, gid: 2000 } };
        const mapped = { ...bind, uidMappings: ids(1000), gidMappings: ids(2000) };
        const flat = { ...mapped, destination: "/n", options: ["rbind", "idmap"] };
        const bundle = await withMounts(hearth, ["sh", "-c", script], [mapped, flat], user);
        const id = `mapped-${process.pid}`;
        const outputPath = join(hearth.dir, "output");
        const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], { outputPath });
        expect(status).toBe(0);
        await eventually("the owners", async () => (await Bun.file(outputPath).text()) === OWNERS || undefined);
        for (const made of ["new", "below/new"]) {
          const { uid, gid } = statSync(join(source, made));
          expect([uid, gid]).toEqual([0, 0]);
        }
        const state = JSON.parse((await hearth.runtime(["state", id])).stdout);
        const { uid, gid } = statSync(`/proc/${state.pid}/root/m/below/old`);
        expect([uid, gid]).toEqual([1003, 2004]);
        expect((await hearth.runtime(["delete", "--force", id])).status).toBe(0);
      } finally {
        unmount(below);
      }
    });
  },
  TIMEOUT_MS,
);

test(
  "over virtio-9p they are refused, and nothing is left",
  async () => {
    await withHearth({ config: { hypervisor: { shared_fs: "virtio-9p" } } }, async (hearth) => {
      const bind = { destination: "/m", type: "bind", source: hearth.dir, options: ["rbind"] };
      const mapped = { ...bind, uidMappings: ids(1000), gidMappings: ids(2000) };
      const bundle = await withMounts(hearth, ["true"], [mapped], {});
      const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, `mapped-${process.pid}`]);
      expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("virtio-9p has no id-mapped") });
    });
  },
  TIMEOUT_MS,
);
