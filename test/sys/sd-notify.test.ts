import { expect, test } from "bun:test";
import { sdNotify } from "../../src/sys/sd-notify.ts";
import { datagramReceiver } from "../harness/datagram.ts";
import { scratch } from "../harness/scratch.ts";

test("the assignments arrive in one datagram, by path and in the abstract name space", async () => {
  using dir = scratch();
  for (const name of [dir.path("notify"), `@hearth-test-${crypto.randomUUID()}`]) {
    using reader = datagramReceiver(name);
    sdNotify(name, ["READY=1", "STATUS=2 of 2 vms ready"]);
    const datagram = await reader.read();
    expect(new TextDecoder().decode(datagram ?? undefined)).toBe("READY=1\nSTATUS=2 of 2 vms ready");
  }
});
