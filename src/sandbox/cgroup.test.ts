import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { scratch } from "../../test/harness/scratch.ts";
import { cgroupPathOf, createHostCgroup, parseCgroupLayout } from "./cgroup.ts";

test.each([
  ["freezer.state", "FROZEN\n"],
  ["freezer.state", "FREEZING\n"],
  ["cgroup.events", "populated 0\nfrozen 1\n"],
])("a directory whose %s is %j is refused and stays; what was made before goes again", (file, text) => {
  using hierarchy = scratch();
  const [made, frozen] = [hierarchy.path("made"), hierarchy.path("frozen")];
  mkdirSync(frozen);
  writeFileSync(`${frozen}/${file}`, text);
  const directories = [made, frozen].map((dir) => ({ mountPoint: hierarchy.dir, dir }));
  expect(() => createHostCgroup(directories)).toThrow("container's cgroup unexpectedly frozen");
  expect([existsSync(made), existsSync(frozen)]).toEqual([false, true]);
});

describe("cgroupPathOf", () => {
  test.each([
    [undefined, "c1", "/hearth-c1.scope"],
    ["", "c1", "/hearth-c1.scope"],
    ["/default/c1", "c1", "/default/c1"],
    ["relative/c1", "c1", "/relative/c1"],
    ["system.slice:docker:abc", "c1", "/system.slice/docker-abc.scope"],
    ["user-1000.slice:libpod:x", "c1", "/user.slice/user-1000.slice/libpod-x.scope"],
    [":hearth:x", "c1", "/system.slice/hearth-x.scope"],
    ["machine.slice:libpod:pod.slice", "c1", "/machine.slice/pod.slice"],
  ])("%p of %s is %s", (path, id, expected) => {
    expect(cgroupPathOf(path, id)).toBe(expected);
  });

  test("refuses a path that leaves the hierarchy", () => {
    expect(() => cgroupPathOf("/a/../../b", "c1")).toThrow("leaves the hierarchy");
  });
});

describe("parseCgroupLayout", () => {
  const v1 = "30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
  const v2 = "31 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

  test("v1 hierarchies win over the empty unified one of a hybrid host", () => {
    expect(parseCgroupLayout(`${v1}\n${v2}\n`)).toEqual({ unified: false, mountPoints: ["/sys/fs/cgroup/cpu"] });
  });

  test("v2 alone", () => {
    expect(parseCgroupLayout(v2)).toEqual({ unified: true, mountPoints: ["/sys/fs/cgroup/unified"] });
  });

  test("no cgroups at all", () => {
    expect(parseCgroupLayout("1 0 8:1 / / rw - ext4 /dev/vda rw")).toEqual({ unified: false, mountPoints: [] });
  });
});
