import { expect, test } from "bun:test";
import { silentLog } from "../../src/log.ts";
import { createNotifier } from "../../src/vmcache/notify.ts";
import { datagramReceiver } from "../harness/datagram.ts";
import { scratch } from "../harness/scratch.ts";

test("a queue that was full once costs one warning and no later ping", async () => {
  using dir = scratch();
  using receiver = datagramReceiver(dir.path("notify"));
  const warnings: string[] = [];
  const notifier = createNotifier(dir.path("notify"), { ...silentLog, warn: (event) => warnings.push(event) });
  // Nobody reads: the kernel keeps a few (net.unix.max_dgram_qlen).
  let sent = 0;
  while (warnings.length === 0) {
    notifier?.alive();
    sent++;
  }
  notifier?.alive();
  expect(warnings).toEqual(["systemd not notified"]);
  for (let index = 0; index < sent - 1; index++) await receiver.read();
  notifier?.onEvent({ kind: "stopping", reason: "test" }, []);
  expect(new TextDecoder().decode((await receiver.read()) ?? undefined)).toBe("STOPPING=1");
});
