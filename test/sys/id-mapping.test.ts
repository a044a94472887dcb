import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chownSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { attachTree, cloneTree, unmountTree } from "../../src/sys/mount.ts";
import { makeUserNamespace } from "../../src/sys/user-namespace.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-ids-"));
});
afterEach(() => {
  unmountTree(dir, { detach: true });
  rmSync(dir, { recursive: true, force: true });
});

const range = (containerID: number, hostID: number, size = 1000) => [{ containerID, hostID, size }];
const ownerOf = (path: string): number[] => [statSync(path).uid, statSync(path).gid];

describe("an id-mapped mount", () => {
  test("shows other owners, and gives new files to those that they are mapped from", async () => {
    const [from, to] = [join(dir, "from"), join(dir, "to")];
    for (const path of [from, to]) mkdirSync(path);
    writeFileSync(join(from, "old"), "");
    chownSync(join(from, "old"), 5, 6);
    {
      using userNamespace = await makeUserNamespace(range(0, 100_000), range(0, 200_000));
      const idMapping = { userNamespace: userNamespace.fd, recursive: false };
      using tree = cloneTree(from, { slave: true, idMapping });
      attachTree(tree, to);
    }
    expect(ownerOf(join(to, "old"))).toEqual([100_005, 200_006]);
    chownSync(join(to, "old"), 100_007, 200_008);
    expect(ownerOf(join(from, "old"))).toEqual([7, 8]);
  });

  test("is refused where the file system knows of none", async () => {
    using userNamespace = await makeUserNamespace(range(0, 1), range(0, 1));
    const idMapping = { userNamespace: userNamespace.fd, recursive: false };
    expect(() => cloneTree("/proc", { idMapping })).toThrow("map owners of mount /proc");
  });
});

test("ranges that the kernel does not take are an error", async () => {
  await expect(makeUserNamespace(range(0, 0, 0), range(0, 0))).rejects.toMatchObject({ code: "invalid-argument" });
});
