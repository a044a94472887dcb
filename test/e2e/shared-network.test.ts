/**
 * A container that is given the network namespace of another one, as by `--network container:`: it joins that one's VM,
 * and both live and go independently of each other.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { vmRecords } from "../harness/pool.ts";
import { until } from "../harness/until.ts";

const TIMEOUT_MS = 180_000;
/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const RUN = `net-${crypto.randomUUID().slice(0, 8)}`;
const [FIRST, SECOND] = [`${RUN}-first`, `${RUN}-second`] as const;

let opened: OpenHearth;
let hearth: Hearth;

beforeAll(() => {
  opened = openHearth();
  hearth = opened.hearth;
});
afterAll(() => opened.close(), TIMEOUT_MS);

async function runtime(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(args);
  if (status !== 0) process.stderr.write(opened.describe());
  expect({ args, status, stderr: status === 0 ? "" : stderr }).toEqual({ args, status: 0, stderr: "" });
  return stdout;
}

/** `joined`: types of namespaces that are those of the container whose pid it is. */
async function run(id: string, args: string[], pid = 0, joined: string[] = []): Promise<void> {
  const namespaces = ["pid", "ipc", "uts", "mount", "network"].map((type) =>
    joined.includes(type) ? { type, path: `/proc/${pid}/ns/${type === "network" ? "net" : type}` } : { type },
  );
  const bundle = await hearth.bundle({ args, hostname: id, config: { linux: { namespaces } } });
  const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], {
    outputPath: `${bundle}/output`,
  });
  if (status !== 0) throw new Error(`run ${id}: ${await Bun.file(`${bundle}/output`).text()}${opened.describe()}`);
}

async function pidOf(id: string): Promise<number> {
  const state: unknown = JSON.parse(await runtime("state", id));
  if (typeof state === "object" && state !== null && "pid" in state) return Number(state.pid);
  throw new Error(`no pid of ${id}`);
}

const exec = (id: string, script: string) => runtime("exec", id, "sh", "-c", script);
const vms = () => vmRecords(hearth.runDir).map(({ containers }) => containers);
const cgroupsOf = (id: string) =>
  readdirSync("/sys/fs/cgroup").filter((name) => existsSync(join("/sys/fs/cgroup", name, `hearth-${id}.scope`)));

test(
  "one VM, and in it what they share and what not",
  async () => {
    await run(FIRST, ["sh", "-c", "echo page >/tmp/page; exec httpd -f -p 8080 -h /tmp"]);
    await run(SECOND, ["sleep", "1000000"], await pidOf(FIRST), ["network", "ipc"]);
    expect(vms()).toEqual([[FIRST, SECOND]]);
    const page = () => hearth.runtime(["exec", SECOND, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page"]);
    expect((await until(page, ({ status }) => status === 0)).stdout).toBe("page\n");
    const namespaces = async (id: string) =>
      (await exec(id, "for type in net ipc uts pid; do readlink /proc/self/ns/$type; done")).trim().split("\n");
    const [first, second] = [await namespaces(FIRST), await namespaces(SECOND)];
    expect(second.map((name, index) => name === first[index])).toEqual([true, true, false, false]);
    expect(await exec(SECOND, "hostname; ls /tmp")).toBe(`${SECOND}\n`);
  },
  TIMEOUT_MS,
);

test("another's namespace without its network is refused", async () => {
  const error = run(`${RUN}-third`, ["true"], await pidOf(FIRST), ["ipc"]);
  await expect(error).rejects.toThrow("another container's is joined together with its network");
  expect(vms()).toEqual([[FIRST, SECOND]]);
});

test(
  "the first goes, the second stays; the VM goes with it, and the cgroup that it ran in",
  async () => {
    expect(cgroupsOf(FIRST)).not.toEqual([]);
    expect((await hearth.runtime(["delete", "--force", FIRST])).status).toBe(0);
    expect(vms()).toEqual([[SECOND]]);
    expect(await exec(SECOND, "hostname")).toBe(`${SECOND}\n`);
    await runtime("delete", "--force", SECOND);
    expect(vms()).toEqual([]);
    expect([...cgroupsOf(FIRST), ...cgroupsOf(SECOND)]).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  "the first comes again while its VM is the second's: in a VM of its own, and goes again",
  async () => {
    await run(FIRST, ["sleep", "1000000"]);
    await run(SECOND, ["sleep", "1000000"], await pidOf(FIRST), ["network"]);
    await runtime("delete", "--force", FIRST);
    await run(FIRST, ["sleep", "1000000"]);
    expect(vms().toSorted()).toEqual([[FIRST], [SECOND]]);
    await runtime("delete", "--force", FIRST);
    expect(await exec(SECOND, "hostname")).toBe(`${SECOND}\n`);
    await runtime("delete", "--force", SECOND);
    expect(vms()).toEqual([]);
    expect([...cgroupsOf(FIRST), ...cgroupsOf(SECOND)]).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  "the second goes, and the first's limits can be changed as before",
  async () => {
    await run(FIRST, ["sleep", "1000000"]);
    await run(SECOND, ["sleep", "1000000"], await pidOf(FIRST), ["network", "pid"]);
    expect(await exec(SECOND, "ps | grep -c '[s]leep'")).toBe("2\n");
    expect((await hearth.runtime(["update", "--cpuset-cpus", "0", SECOND])).stderr).toContain(
      "cpu.cpus 0 is not applied: it holds for the VM, which is another container's",
    );
    await runtime("delete", "--force", SECOND);
    await runtime("update", "--cpuset-cpus", "0", FIRST);
    await runtime("delete", "--force", FIRST);
    expect(vms()).toEqual([]);
  },
  TIMEOUT_MS,
);
