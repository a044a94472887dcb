import { describe, expect, test } from "bun:test";
import { keepFlags } from "./bind-flags.ts";

const ROOT = { rootfs: "/shared/c1/rootfs", containerId: "c1" };
const bind = (options: string[], source = "/shared/c1/1/x") => ({ destination: "/m", type: "bind", source, options });

describe("bind mounts in a user namespace", () => {
  test("one with flags is a bind mount of one that has them", () => {
    const proc = { destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] };
    const { mounts, binds } = keepFlags([proc, bind(["rbind", "noexec", "exec", "nosuid", "rslave"])], ROOT);
    const mountPoint = "/run/hearth/binds/c1/1";
    expect(mounts).toEqual([proc, bind(["rbind", "noexec", "exec", "nosuid", "rslave"], mountPoint)]);
    expect(binds).toEqual([{ source: "/shared/c1/1/x", options: ["noexec", "exec", "nosuid"], mountPoint }]);
  });

  test.each([
    ["without flags", bind(["rbind", "rw", "rprivate"])],
    ["read-only, whose flags crun keeps", bind(["bind", "ro", "noexec"])],
    ["of what an earlier mount puts into the root", bind(["bind", "noexec"], "/shared/c1/rootfs/m")],
    ["that is none to crun", bind(["noexec"])],
  ])("one %s stays as it is", (_case, mount) => {
    expect(keepFlags([mount], ROOT)).toEqual({ mounts: [mount], binds: [] });
  });
});
