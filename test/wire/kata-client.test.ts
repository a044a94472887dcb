/** A client made by another toolchain, with Kata's protocol, against a real pool of real VMs. */
import { expect, test } from "bun:test";
import { POOL_SHUTDOWN_GRACE_MS } from "../../src/limits.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { generateKataClient, type KataCall } from "../harness/kata-client.ts";
import { startPool, vmRecords } from "../harness/pool.ts";
import { scratch } from "../harness/scratch.ts";

const VM_TEST_TIMEOUT_MS = 120_000;

/** Hand-made encoding: least significant seven bits first, the top bit says that more follow. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return [...bytes, rest];
}

function lengthPrefixed(tag: number, bytes: Iterable<number>): number[] {
  const content = [...bytes];
  return [tag, ...varint(content.length), ...content];
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const base64 = (text: unknown): Uint8Array => Buffer.from(String(text), "base64");
const hex = (bytes: Iterable<number>): string => Buffer.from([...bytes]).toString("hex");

function answerOf(calls: readonly KataCall[], method: string): KataCall {
  const call = calls.find((one) => one.method === method);
  if (call === undefined || call.status !== undefined) throw new Error(`${method}: ${call?.status ?? "not called"}`);
  return call;
}

test(
  "Config, Status, GetBaseVM and Quit, each answer checked byte by byte",
  async () => {
    using generated = scratch();
    const client = await generateKataClient(generated.dir);
    await withHearth({ config: { factory: { vm_cache_lease_ms: 2000 } } }, async (hearth) => {
      await using pool = startPool(hearth, 1);
      await pool.idle(1);
      const [idle] = vmRecords(hearth.runDir);
      if (idle === undefined) throw new Error("no idle vm");
      const calls = await client.call(hearth.endpoint, ["Config", "Status", "GetBaseVM", "Quit"]);
      checkConfig(answerOf(calls, "Config"));
      checkStatus(answerOf(calls, "Status"), pool.pid, idle.processes[0]?.pid ?? 0);
      checkVm(answerOf(calls, "GetBaseVM"), hearth);
      expect(answerOf(calls, "GetBaseVM").fields["id"]).toBe(idle.vmId);
      expect(answerOf(calls, "Quit")).toMatchObject({ hex: "", fields: {} });
      // Quit is answered and then done. Nobody adopts the VM: its lease ends it.
      expect(await pool.ended()).toBe(0);
      while (vmRecords(hearth.runDir).length > 0) await Bun.sleep(POOL_SHUTDOWN_GRACE_MS / 20);
    });
  },
  VM_TEST_TIMEOUT_MS,
);

function checkConfig({ fields, hex: bytes }: KataCall): void {
  const data = base64(fields["Data"]);
  expect(JSON.parse(new TextDecoder().decode(data))).toMatchObject({ identity: { hypervisor: "qemu", vcpus: 1 } });
  expect(bytes).toBe(hex([...lengthPrefixed(0x0a, data), ...lengthPrefixed(0x12, utf8("{}"))]));
}

/** The client knows of the first two fields of each message; ours come after them and do it no harm. */
function checkStatus({ fields, hex: bytes }: KataCall, serverPid: number, qemuPid: number): void {
  expect(fields).toEqual({ pid: String(serverPid), vmstatus: [{ pid: String(qemuPid), cpu: 1, memory: 1024 }] });
  const known = [0x08, ...varint(qemuPid), 0x10, 1, 0x18, ...varint(1024)];
  const start = [0x08, ...varint(serverPid), 0x12];
  const message = Buffer.from(bytes, "hex");
  expect(hex(message.subarray(0, start.length))).toBe(hex(start));
  // A VM's status is longer than 127 bytes only with names of absurd length.
  const vmBytes = message[start.length] ?? 0;
  expect(vmBytes).toBeWithin(known.length, 128);
  expect(hex(message.subarray(start.length + 1, start.length + 1 + known.length))).toBe(hex(known));
  // What follows inside and after it has numbers above Kata's: 4 and above, 3 and above.
  expect((message[start.length + 1 + known.length] ?? 0) >> 3).toBe(4);
  expect((message[start.length + 1 + vmBytes] ?? 0) >> 3).toBeGreaterThan(2);
}

function checkVm({ fields, hex: bytes }: KataCall, hearth: Hearth): void {
  const id = String(fields["id"]);
  const hypervisor = base64(fields["hypervisor"]);
  const record: unknown = JSON.parse(new TextDecoder().decode(hypervisor));
  const proxyPid = Number(fields["proxyPid"]);
  const proxyUrl = `unix://${hearth.runDir}/vm/${id}/sandbox.sock`;
  expect(record).toMatchObject({
    vmId: id,
    sandbox: { pid: proxyPid },
    token: expect.stringMatching(/^[0-9a-f]{64}$/),
  });
  expect(fields).toMatchObject({ proxyURL: proxyUrl, cpu: 1, memory: 1024, cpuDelta: 0 });
  expect(bytes).toBe(
    hex([
      ...lengthPrefixed(0x0a, utf8(id)),
      ...lengthPrefixed(0x12, hypervisor),
      0x18,
      ...varint(proxyPid),
      ...lengthPrefixed(0x22, utf8(proxyUrl)),
      ...[0x28, 1],
      ...[0x30, ...varint(1024)],
    ]),
  );
}
