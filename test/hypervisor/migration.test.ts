/** Saving against a scripted QMP: what a real QEMU does too quickly to be seen each time. */
import { afterEach, describe, expect, test } from "bun:test";
import { saveVm } from "../../src/hypervisor/qemu/migration.ts";
import { scratch } from "../harness/scratch.ts";
import { ScriptedQmp } from "../harness/scripted-qmp.ts";

const scripted = new ScriptedQmp();
afterEach(() => scripted.close());

describe("save", () => {
  test("is done when the VM may be continued, not when the migration says that it is completed", async () => {
    using place = scratch();
    const [qmp, server] = await scripted.connected();
    const asked: string[] = [];
    let statusesLeft = ["paused", "finish-migrate", "finish-migrate", "postmigrate"];
    const serving = (async () => {
      while (statusesLeft.length > 0) {
        const { execute, id } = await server.command();
        asked.push(execute);
        if (execute === "query-status") {
          const [status, ...rest] = statusesLeft;
          statusesLeft = rest;
          server.send({ return: { status, running: false, singlestep: false }, id });
          continue;
        }
        server.send({ return: {}, id });
        if (execute !== "migrate") continue;
        const timestamp = { seconds: 0, microseconds: 0 };
        server.send({ event: "MIGRATION", data: { status: "completed" }, timestamp });
      }
    })();
    await saveVm(qmp, { statePath: place.path("state"), ignoreShared: true });
    expect(statusesLeft).toEqual([]);
    expect(asked.slice(-4)).toEqual(["migrate", "query-status", "query-status", "query-status"]);
    await serving;
  });
});
