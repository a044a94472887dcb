import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { containerPaths } from "../paths.ts";
import { ownIdentity } from "../sys/process-identity.ts";
import {
  type ContainerRecord,
  hookState,
  parseContainerRecord,
  printedState,
  RECORDED_STATUSES,
  statusOf,
} from "./container-record.ts";
import { listContainers, lockContainer, readContainer, removeLeftover, reserveContainer } from "./container-store.ts";

let dir = "";
let root = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-store-"));
  root = join(dir, "a", "root");
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

function record(id: string, changes: Partial<ContainerRecord> = {}): ContainerRecord {
  return {
    version: 1,
    id,
    status: "created",
    bundle: "/b",
    rootfs: "/b/rootfs",
    created: "2026-01-01T00:00:00.000Z",
    owner: "root",
    annotations: {},
    shim: ownIdentity(),
    vm: { id: "v", runDir: "/r", socket: "/r/vm/v/sandbox.sock", sandbox: ownIdentity() },
    cgroupDirs: [],
    processJson: "{}",
    hooksJson: "{}",
    ...changes,
  };
}

async function make(id: string): Promise<void> {
  await using container = await reserveContainer(root, id);
  container.save(record(id));
  container.keep();
}

describe("reserving", () => {
  test("makes a private directory, which goes again when it is not kept", async () => {
    const umask = process.umask(0);
    {
      await using container = await reserveContainer(root, "c1");
      expect(statSync(container.paths.dir).mode & 0o777).toBe(0o700);
      expect(statSync(root).mode & 0o777).toBe(0o700);
      container.save(record("c1"));
    }
    process.umask(umask);
    expect(readdirSync(root)).toEqual([]);
  });

  test("an id that is reserved, or exists, is refused and left as it is", async () => {
    await using held = await reserveContainer(root, "c1");
    await expect(reserveContainer(root, "c1")).rejects.toThrow("already exists: c1");
    expect(existsSync(held.paths.lock)).toBe(true);
    await make("c2");
    await expect(reserveContainer(root, "c2")).rejects.toThrow("already exists: c2");
    expect(readContainer(root, "c2").id).toBe("c2");
  });

  test("what a killed create left behind is taken over", async () => {
    mkdirSync(join(root, "c1"), { recursive: true });
    writeFileSync(join(root, "c1", "lock"), "");
    writeFileSync(join(root, "c1", ".state.json.123-abc.tmp"), "{");
    await make("c1");
    await using container = await lockContainer(root, "c1", 1000);
    container.remove();
    expect(readdirSync(root)).toEqual([]);
  });

  test("a record that cannot be read is never taken over", async () => {
    mkdirSync(join(root, "c1"), { recursive: true });
    writeFileSync(join(root, "c1", "state.json"), "{");
    await expect(reserveContainer(root, "c1")).rejects.toThrow("not JSON");
    expect(existsSync(join(root, "c1", "state.json"))).toBe(true);
  });

  test("many at once: exactly one holds the id at any time, whoever deletes it meanwhile", async () => {
    let holders = 0;
    const worker = async (): Promise<void> => {
      for (let round = 0; round < 50; round++) {
        try {
          await using container = await reserveContainer(root, "c1");
          holders++;
          expect(holders).toBe(1);
          await new Promise<void>((resolve) => setImmediate(resolve));
          container.save(record("c1"));
          holders--;
        } catch (thrown) {
          expect(String(thrown)).toContain("already exists");
        }
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    expect(readdirSync(root)).toEqual([]);
  });
});

describe("finding", () => {
  test("a container that is still being created is waited for; when it does not come to be there is none", async () => {
    for (const comes of [true, false]) {
      const creator = await reserveContainer(root, "c1");
      const waiting = lockContainer(root, "c1", 10_000).then(
        async (container) => {
          await using locked = container;
          return locked.record.id;
        },
        (thrown) => String(thrown),
      );
      if (comes) {
        creator.save(record("c1"));
        creator.keep();
      }
      await creator[Symbol.asyncDispose]();
      expect(await waiting).toEndWith(comes ? "c1" : "container c1 does not exist");
      if (comes) (await lockContainer(root, "c1", 1000)).remove();
    }
    expect(readdirSync(root)).toEqual([]);
  });

  test("what a killed create left behind is no container, and stays for who removes it", async () => {
    mkdirSync(join(root, "c1"), { recursive: true });
    writeFileSync(join(root, "c1", "lock"), "");
    await expect(lockContainer(root, "c1", 1000)).rejects.toThrow("does not exist");
    expect(readdirSync(join(root, "c1"))).toEqual(["lock"]);
  });

  test("containers are listed by id; what is no container is not", async () => {
    expect(listContainers(root)).toEqual([]);
    await make("b");
    await make("a");
    writeFileSync(join(root, "file"), "");
    mkdirSync(join(root, "unfinished"));
    expect(listContainers(root).map(({ id }) => id)).toEqual(["a", "b"]);
  });

  test("an absent one does not exist, for every way to ask", async () => {
    expect(() => readContainer(root, "c1")).toThrow("container c1 does not exist");
    await expect(lockContainer(root, "c1", 10)).rejects.toThrow("container c1 does not exist");
    expect(existsSync(root)).toBe(false);
    expect(await removeLeftover(root, "c1")).toBeUndefined();
  });

  test("the lock waits for its holder, and sees that it deleted the container", async () => {
    await make("c1");
    const first = await lockContainer(root, "c1", 1000);
    await expect(lockContainer(root, "c1", 20)).rejects.toThrow(
      "wait for another command to be done with container c1: no answer within 20 ms",
    );
    const second = lockContainer(root, "c1", 5000);
    second.catch(() => undefined);
    first.remove();
    await expect(second).rejects.toThrow("container c1 does not exist");
    expect(readdirSync(root)).toEqual([]);
  });

  test("leftovers are removed, records and what is locked are not", async () => {
    mkdirSync(join(root, "left"), { recursive: true });
    expect(await removeLeftover(root, "left")).toEqual([]);
    await make("c1");
    expect(await removeLeftover(root, "c1")).toBeUndefined();
    await using _held = await reserveContainer(root, "c2");
    expect(await removeLeftover(root, "c2")).toBeUndefined();
    expect(readdirSync(root).sort()).toEqual(["c1", "c2"]);
  });

  test("what a killed create had noted is told when its leftover is removed", async () => {
    mkdirSync(join(root, "left"), { recursive: true });
    writeFileSync(containerPaths(root, "left").cgroups, JSON.stringify(["/a", "/b"]));
    expect(await removeLeftover(root, "left")).toEqual(["/a", "/b"]);
    expect(readdirSync(root)).toEqual([]);
  });
});

describe("record", () => {
  test.each(RECORDED_STATUSES)("%s is the status while the shim lives, stopped after", (status) => {
    expect(statusOf(record("c", { status }))).toBe(status);
    const { pid, startTime } = ownIdentity();
    const gone = record("c", { status, shim: { pid, startTime: startTime + 1 } });
    expect(statusOf(gone)).toBe("stopped");
    expect(printedState(gone)).toMatchObject({ status: "stopped", pid: 0 });
    expect(JSON.parse(hookState(gone, "stopped"))).not.toHaveProperty("pid");
  });

  test("comes back as it was written", () => {
    const joined = { id: "d", cgroupDirs: ["/y"] };
    const written = record("c", { annotations: { a: "b" }, cgroupDirs: ["/x"], joined });
    expect(parseContainerRecord(JSON.stringify(written), "f")).toEqual(written);
  });

  test.each<[object | string, string]>([
    ["[]", "record is not an object"],
    [{ version: 2 }, "version 2 is not known"],
    [{ status: "odd" }, "status is not known"],
    [{ id: 5 }, "id is not a string"],
    [{ shim: { pid: -1, startTime: 1 } }, "shim.pid is not a process id"],
    [{ shim: { pid: 1, startTime: "x" } }, "shim.startTime is not a number"],
    [{ vm: undefined }, "vm is not an object"],
    [{ annotations: { a: 1 } }, "annotations.a is not a string"],
    [{ cgroupDirs: "x" }, "cgroupDirs is not a list"],
  ])("%j is refused", (changes, message) => {
    const text = typeof changes === "string" ? changes : JSON.stringify({ ...record("c"), ...changes });
    expect(() => parseContainerRecord(text, "f")).toThrow(`read container record f: ${message}`);
  });
});
