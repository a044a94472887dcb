import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HearthError } from "../errors.ts";
import { silentLog } from "../log.ts";
import type { AgentCalls } from "../rpc/protocols.ts";
import { createSteps } from "./steps.ts";
import { VmVolumes } from "./volumes.ts";

const NEVER_MS = 1_000_000;
const MOUNT_POINT = "/run/hearth/volumes/v";
const EMPTY = { $typeName: "google.protobuf.Empty" } as const;

let hostPath: string;
beforeEach(() => {
  hostPath = join(mkdtempSync(join(tmpdir(), "hearth-volumes-")), "kubernetes.io~secret/s");
  mkdirSync(hostPath, { recursive: true });
  writeFileSync(join(hostPath, "key"), "first");
});
afterEach(() => rmSync(join(hostPath, "../.."), { recursive: true }));

/** A guest that mounts what it is told, and refuses so many copies. */
class Guest {
  refusals = 0;
  mounts = 0;
  /** What the key held in each copy that it took. */
  readonly keys: string[] = [];
  #told: () => void = () => undefined;

  readonly agent: Pick<AgentCalls, "createSandbox" | "mirrorVolume"> = {
    createSandbox: async ({ storages = [] }) => {
      this.mounts += storages.length;
      return EMPTY;
    },
    mirrorVolume: async ({ mountPoint, files = [] }) => {
      expect(mountPoint).toBe(MOUNT_POINT);
      if (this.refusals-- > 0) throw new HearthError("unavailable", "not now");
      const key = files.find(({ path }) => path === "key");
      this.keys.push(Buffer.from(key?.data ?? []).toString());
      this.#told();
      return EMPTY;
    },
  };

  async copies(count: number): Promise<string[]> {
    while (this.keys.length < count) await new Promise<void>((resolve) => (this.#told = resolve));
    return this.keys;
  }

  volumes(lookMs: number): VmVolumes {
    return new VmVolumes(
      { agent: this.agent as AgentCalls },
      createSteps({ onStep: () => undefined }),
      silentLog,
      lookMs,
    );
  }
}

const wanted = () => [{ fsType: "tmpfs", mountPoint: MOUNT_POINT, options: [], mirrorOf: hostPath }] as const;

test("a copy is there when its volume is mounted, follows it, and is not sent again as it is", async () => {
  const guest = new Guest();
  using volumes = guest.volumes(NEVER_MS);
  await volumes.mount(wanted());
  await volumes.mount(wanted());
  expect({ mounts: guest.mounts, keys: guest.keys }).toEqual({ mounts: 1, keys: ["first"] });
  writeFileSync(join(hostPath, "key"), "second");
  expect(await guest.copies(2)).toEqual(["first", "second"]);
});

test("what a directory that has come meanwhile gets is seen too", async () => {
  const guest = new Guest();
  using volumes = guest.volumes(NEVER_MS);
  await volumes.mount(wanted());
  mkdirSync(join(hostPath, "later"));
  await guest.copies(2);
  writeFileSync(join(hostPath, "later/file"), "");
  expect(await guest.copies(3)).toEqual(["first", "first", "first"]);
});

test("a copy that the guest does not take is sent again", async () => {
  const guest = new Guest();
  using volumes = guest.volumes(NEVER_MS);
  await volumes.mount(wanted());
  guest.refusals = 1;
  writeFileSync(join(hostPath, "key"), "second");
  expect(await guest.copies(2)).toEqual(["first", "second"]);
});

test("a change of which no sign is given is found by looking", async () => {
  const guest = new Guest();
  using volumes = guest.volumes(20);
  await volumes.mount(wanted());
  // Watched is the end of writing.
  const fd = openSync(join(hostPath, "key"), "a");
  try {
    writeSync(fd, " and more");
    expect(await guest.copies(2)).toEqual(["first", "first and more"]);
  } finally {
    closeSync(fd);
  }
});

test("one that cannot be made fails the mount", async () => {
  const guest = new Guest();
  using volumes = guest.volumes(NEVER_MS);
  guest.refusals = 1;
  await expect(volumes.mount(wanted())).rejects.toThrow("mirror-volume: not now");
});
