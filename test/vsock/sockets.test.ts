/** Vsock sockets and CIDs on a host that has them; VMs are in containers.test.ts. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { CID_MIN } from "../../src/sys/vsock.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

let host: TestHost;
beforeAll(async () => {
  host = await TestHost.start({ memoryMib: 2048 });
  await host.sh("modprobe -a vhost_vsock vsock_loopback");
}, 180_000);
afterAll(() => host[Symbol.asyncDispose]());

test("a connection carries bytes both ways, ends, and comes from a port that only root can have", async () => {
  const seen = JSON.parse((await host.bun("test/fixtures/vsock-loopback.ts")).stdout);
  expect(seen).toEqual({
    peer: { cid: 1, port: expect.any(Number) },
    whole: true,
    back: "back",
    end: null,
    nobody: "unavailable",
    noSuchGuest: "unavailable",
    taken: "already-exists",
  });
  expect(seen.peer.port).toBeWithin(1, 1024);
});

test("another user than root cannot have a reserved port", async () => {
  const { status, stderr } = await host.bunAsNobody("test/fixtures/vsock-reserved-port.ts");
  expect(status).toBe(1);
  expect(stderr).toContain("bind reserved vsock port");
  expect(stderr).toContain("EACCES");
});

test("CIDs reserved by many at once are all different, and free again when let go", async () => {
  const [processes, each, range] = [4, 50, 400];
  const script = `
    mkfifo /tmp/hold; exec 9<>/tmp/hold
    for i in ${Array.from({ length: processes }, (_, index) => index).join(" ")}; do
      "$BUN" "$PROGRAM" ${each} ${range} </tmp/hold 9>&- >/tmp/cids.$i & pids="$pids $!"
    done
    until [ "$(cat /tmp/cids.* | wc -l)" = ${processes} ]; do 
      sleep 0.1; for pid in $pids; do kill -0 $pid || exit 1; done
    done
    cat /tmp/cids.*; exec 9>&-; wait $pids`;
  const env = { BUN: process.execPath, PROGRAM: new URL("../fixtures/vsock-cids.ts", import.meta.url).pathname };
  const lines = (await host.sh(script, { env })).split("\n");
  const cids = lines.flatMap((line): number[] => JSON.parse(line));
  expect(cids).toHaveLength(processes * each);
  expect(new Set(cids).size).toBe(processes * each);
  for (const cid of cids) expect(cid).toBeWithin(CID_MIN, CID_MIN + range);
  const again = await host.bun("test/fixtures/vsock-cids.ts", [`${range}`, `${range * 2}`]);
  expect(JSON.parse(again.stdout)).toHaveLength(range);
});

test("when every CID is taken that is said, after a bounded number of tries", async () => {
  const result = await host.run([
    process.execPath,
    new URL("../fixtures/vsock-cids.ts", import.meta.url).pathname,
    ...["3", "2"],
  ]);
  expect(result.status).toBe(1);
  expect(result.stderr).toContain("reserve CID: 64 of them are taken");
});
