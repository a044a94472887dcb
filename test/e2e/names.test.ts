/** A name server on a loopback address of the container's namespace, as docker's, is reached from the guest over UDP and TCP. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { inNetns } from "../../src/sys/namespace.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { listenTcp } from "../../src/sys/tcp-socket.ts";
import { framedName, NameMessages } from "../../src/util/name-messages.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { withHearth } from "../harness/hearth.ts";

const ID = `hearth-names-${process.pid}`;
const ADDRESS = "127.0.0.11";
const TIMEOUT_MS = 120_000;
/** For printf: length, header with one question, "db" and the root, type A, class IN. Source: RFC 1035, 4.1 and 4.2.2. */
const QUERY = "\\0\\24\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\2db\\0\\0\\1\\0\\1";

beforeAll(async () => {
  await runOrThrow(["ip", "netns", "add", ID]);
  await runOrThrow(["ip", "-n", ID, "link", "set", "lo", "up"]);
  await runOrThrow(["ip", "-n", ID, "link", "add", "eth0", "type", "veth", "peer", "name", "peer0"]);
  await runOrThrow(["ip", "-n", ID, "link", "set", "eth0", "up"]);
});
afterAll(async () => void (await runOrThrow(["ip", "netns", "del", ID])));

/** The query as its answer, with one address for A and none for others. Source: RFC 1035, 4.1. */
function answerTo(query: Uint8Array, address: readonly number[]): Uint8Array {
  // One question: name, type, class.
  const isA = query.at(query.indexOf(0, 12) + 2) === 1;
  const question = query.subarray(12, query.indexOf(0, 12) + 5);
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180, 2);
  header.writeUInt16BE(isA ? 1 : 0, 6);
  header.writeUInt32BE(0, 8);
  const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address];
  return Buffer.concat([header, question, Buffer.from(isA ? record : [])]);
}

test(
  "a lookup over each",
  async () => {
    const udp = await inNetns(`/run/netns/${ID}`, () =>
      Bun.udpSocket({
        hostname: ADDRESS,
        port: 53,
        socket: {
          data: (socket, message, port, from) => void socket.send(answerTo(message, [192, 0, 2, 17]), port, from),
        },
      }),
    );
    using _tcp = inNetns(`/run/netns/${ID}`, () =>
      listenTcp(ADDRESS, 53, (stream) => {
        const messages = new NameMessages(stream);
        const serve = async (): Promise<void> => {
          for (let query = await messages.next(); query !== null; query = await messages.next()) {
            await stream.write(framedName(answerTo(query, [192, 0, 2, 6])));
          }
          stream.close();
        };
        serve().catch(() => stream.close());
      }),
    );
    try {
      await withHearth({}, async (hearth) => {
        writeFileSync(join(hearth.dir, "resolv.conf"), `nameserver ${ADDRESS}\n`);
        const { mounts } = bundleConfig({ args: [] });
        const file = { type: "bind", source: join(hearth.dir, "resolv.conf"), options: ["rbind", "ro"] };
        const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
        // nslookup knows UDP alone: the other query is put together by hand, for the address of "db.".
        const script = `nslookup -type=a db. ${ADDRESS} | grep 192; printf '${QUERY}' | nc ${ADDRESS} 53 | tail -c 4 | od -t u1`;
        const bundle = await hearth.bundle({
          args: ["sh", "-c", script],
          config: {
            mounts: [...(Array.isArray(mounts) ? mounts : []), { ...file, destination: "/etc/resolv.conf" }],
            linux: { namespaces: [...namespaces, { type: "network", path: `/run/netns/${ID}` }] },
          },
        });
        const { status, stdout, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID]);
        expect({ status, stdout, stderr }).toEqual({
          status: 0,
          stdout: "Address: 192.0.2.17\n0000000 192   0   2   6\n0000004\n",
          stderr: "",
        });
      });
    } finally {
      udp.close();
    }
  },
  TIMEOUT_MS,
);
