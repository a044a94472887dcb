/** A shared directory whose device is plugged into a running guest: the mount waits for it. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { vmPaths } from "../../src/paths.ts";
import { openSharedDirectory, SHARED_DIRECTORY_TAG } from "../../src/storage/shared-directory.ts";
import { rejection } from "../harness/rejection.ts";
import { scratch } from "../harness/scratch.ts";
import { bootVmAgent } from "./vm-agent.ts";

const GUEST_DIR = join(import.meta.dir, "../../build/guest");
const MOUNT_POINT = "/run/hearth/plugged";

test("a mount that was asked for before the device is there waits for it, and not for ever", async () => {
  using place = scratch();
  await using vm = await bootVmAgent(GUEST_DIR, { isBare: true });
  const paths = vmPaths(place.dir, "v");
  mkdirSync(paths.dir, { recursive: true });
  await using shared = await openSharedDirectory({
    paths,
    sharedFs: "virtio-fs",
    virtiofsdPath: "/usr/lib/qemu/virtiofsd",
  });
  const { agent, health } = vm.client;
  const mountTag = (source: string) =>
    agent.createSandbox({
      sandboxId: "t",
      storages: [{ driver: "virtio-fs", source, fstype: "virtiofs", mountPoint: MOUNT_POINT }],
    });
  const mounting = mountTag(SHARED_DIRECTORY_TAG);
  // Calls are taken in order: the first try was made when this one is answered.
  await health.check({});
  await vm.hypervisor.addDevice(shared.device);
  await mounting;
  const hostDir = place.path("host");
  mkdirSync(hostDir);
  writeFileSync(join(hostDir, "file"), "from the host");
  await using _exposed = await shared.expose(hostDir, "here");
  const storages = [
    { driver: "bind", source: `${MOUNT_POINT}/here`, mountPoint: "/run/hearth/bound", options: ["rbind"] },
  ];
  await agent.createSandbox({ sandboxId: "t", storages });

  expect(
    String(
      await rejection(
        agent.createSandbox({
          sandboxId: "t",
          storages: [
            { driver: "virtio-fs", source: "no-such-tag", fstype: "virtiofs", mountPoint: "/run/hearth/none" },
          ],
        }),
      ),
    ),
  ).toContain("wait for virtio-fs no-such-tag");
}, 120_000);
