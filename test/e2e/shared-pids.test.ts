/** A container that has no pid namespace of its own. */
import { expect, test } from "bun:test";
import { withHearth } from "../harness/hearth.ts";

test("killed, it takes what exec has started along", async () => {
  await withHearth({}, async (hearth) => {
    const id = `shared-pids-${process.pid}`;
    const namespaces = ["network", "ipc", "uts", "mount"].map((type) => ({ type }));
    const bundle = await hearth.bundle({ args: ["sleep", "1000"], config: { linux: { namespaces } } });
    const run = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], { outputPath: `${bundle}/out` });
    expect(run.status).toBe(0);
    const pidFile = `${bundle}/pid`;
    const beside = hearth.runtime(["exec", "--pid-file", pidFile, id, "sleep", "1000"]);
    while (!(await Bun.file(pidFile).exists()));
    expect(await hearth.runtime(["kill", id, "KILL"])).toMatchObject({ status: 0 });
    expect(await beside).toMatchObject({ status: 137 });
    expect(await hearth.runtime(["delete", "--force", id])).toMatchObject({ status: 0 });
  });
}, 120_000);
