/** AppArmor profiles of the host confine containers and exec processes in the guest, whose kernel is given them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { compileProfile, hostWithApparmor, profileText } from "../harness/apparmor.ts";
import { type Hearth, type OpenHearth, openHearth, withHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";

const TIMEOUT_MS = 180_000;
const ID = `apparmor-${process.pid}`;
const [PROFILE, OTHER] = ["hearth-test", "/usr/bin/hearth other"];
/** Tries files that profiles of these tests deny to write, and says which it could; then its own profile. */
const LOOK = `for f in one two three; do true 2>/dev/null >/dev/shm/$f && echo "$f"; done; cat /proc/self/attr/current`;

/** As engines write theirs. */
const ENGINES = `abi <abi/3.0>,
profile hearth-engine flags=(attach_disconnected,mediate_deleted) {
  network, capability, file, umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer=hearth-engine,
  ptrace (trace, read, tracedby, readby) peer=hearth-engine,
  deny /proc/sys/kernel/** w,
  deny mount,
}
`;

let host: ReturnType<typeof hostWithApparmor>;
let loaded: string;
beforeAll(async () => {
  host = hostWithApparmor();
  const child = `profile child { file, deny /dev/shm/three w, }`;
  loaded = host.load(PROFILE, await compileProfile(profileText(PROFILE, "/dev/shm/one", child)));
  host.load(OTHER, await compileProfile(profileText(`"${OTHER}"`, "/dev/shm/two")));
  host.load("hearth-engine", await compileProfile(ENGINES));
  host.load("hidden", undefined);
  host.load("newer", new TextEncoder().encode("of a kernel to come"));
});
afterAll(() => {
  host[Symbol.dispose]();
});

async function start(
  hearth: Hearth,
  id: string,
  apparmorProfile: string,
  annotations = {},
  script = "sleep 100000",
): Promise<string> {
  const bundle = await hearth.bundle({
    args: ["sh", "-c", script],
    config: { process: { apparmorProfile }, annotations },
  });
  const log = join(bundle, "log");
  const outputPath = join(bundle, "output");
  const { status } = await hearth.runtime(["--log", log, "run", "--detach", "--bundle", bundle, id], { outputPath });
  if (status !== 0) throw new Error(await Bun.file(outputPath).text());
  return await Bun.file(log).text();
}

async function look(hearth: Hearth, id: string, ...flags: string[]): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(["exec", ...flags, id, "sh", "-c", LOOK]);
  if (status !== 0) throw new Error(stderr);
  return stdout.trimEnd().replaceAll("\n", " ");
}

describe("in one VM", () => {
  let opened: OpenHearth;
  let hearth: Hearth;
  const [free, confined] = [`${ID}-free`, `${ID}-confined`];
  const annotations = (type: string): Record<string, string> => ({
    "io.kubernetes.cri.container-type": type,
    "io.kubernetes.cri.sandbox-id": free,
  });
  beforeAll(async () => {
    opened = openHearth();
    hearth = opened.hearth;
    await start(hearth, free, "", annotations("sandbox"));
    await start(hearth, confined, PROFILE, annotations("container"));
  }, TIMEOUT_MS);
  afterAll(async () => {
    for (const id of [confined, free]) await hearth.runtime(["delete", "--force", id]);
    await opened.close();
  });

  test("a container has its profile, one beside it has none", async () => {
    const { stdout } = await hearth.runtime(["exec", confined, "cat", "/proc/1/attr/current"]);
    expect(stdout).toBe(`${PROFILE} (enforce)\n`);
    expect(await look(hearth, free)).toBe("one two three unconfined");
  });

  test.each([
    ["that of its container", () => confined, [], `two three ${PROFILE} (enforce)`],
    ["another", () => confined, ["--apparmor", OTHER], `one three ${OTHER} (enforce)`],
    ["none", () => confined, ["--apparmor", "unconfined"], "one two three unconfined"],
    ["one, in a container without", () => free, ["--apparmor", PROFILE], `two three ${PROFILE} (enforce)`],
    ["a child", () => free, ["--apparmor", `${PROFILE}//child`], `one two ${PROFILE}//child (enforce)`],
    [
      "several at once",
      () => free,
      ["--apparmor", `${PROFILE}//&${OTHER}`],
      expect.stringMatching(/^three .*\/\/&.* \(enforce\)$/),
    ],
  ])("a process of exec has %s", async (_what, container, flags, expected) => {
    expect(await look(hearth, container(), ...flags)).toEqual(expected);
  });

  test("the profile of an OCI process, and its container's without", async () => {
    const file = join(hearth.dir, "process.json");
    const exec = async (apparmorProfile: string): Promise<string> => {
      await Bun.write(
        file,
        JSON.stringify({ args: ["sh", "-c", LOOK], env: ["PATH=/bin"], cwd: "/", apparmorProfile }),
      );
      return (await hearth.runtime(["exec", "--process", file, confined])).stdout;
    };
    expect(await exec(OTHER)).toEndWith(`${OTHER} (enforce)\n`);
    expect(await exec("")).toEndWith(`${PROFILE} (enforce)\n`);
  });

  test("one as engines write it: what they deny is denied to who may do everything, signals come from outside", async () => {
    const script = `mount -t tmpfs x /tmp 2>/dev/null && echo mounted && umount /tmp
      mount -o remount,rw /proc/sys 2>/dev/null; echo 9 2>/dev/null >/proc/sys/kernel/sched_rr_timeslice_ms && echo written
      sleep 1000 & kill $!; wait $! || echo "killed $?"; cat /proc/self/attr/current`;
    const tryAll = async (profile: string): Promise<string> => {
      const flags = ["--cap", "CAP_SYS_ADMIN", "--apparmor", profile];
      return (await hearth.runtime(["exec", ...flags, free, "sh", "-c", script])).stdout.replaceAll("\n", " ");
    };
    expect(await tryAll("unconfined")).toBe("mounted written killed 143 unconfined ");
    expect(await tryAll("hearth-engine")).toBe("killed 143 hearth-engine (enforce) ");
    const id = `${ID}-signals`;
    const init = "trap 'touch /dev/shm/got' TERM; touch /dev/shm/ready; while :; do sleep 0.02; done";
    await start(hearth, id, "hearth-engine", annotations("container"), init);
    const until = (file: string): Promise<unknown> =>
      hearth.runtime(["exec", id, "sh", "-c", `until [ -e /dev/shm/${file} ]; do sleep 0.02; done`]);
    await until("ready");
    await hearth.runtime(["kill", id, "TERM"]);
    await until("got");
    await hearth.runtime(["delete", "--force", id]);
  });

  test("one that is not loaded on the host is an error, in runc's words", async () => {
    const { status, stderr } = await hearth.runtime(["exec", "--apparmor", "missing", free, "true"]);
    expect([status, stderr]).toEqual([255, expect.stringContaining("apparmor failed to apply profile missing")]);
    await expect(start(hearth, `${ID}-missing`, "missing", annotations("container"))).rejects.toThrow(
      "apparmor failed to apply profile missing: it is not loaded on this host",
    );
  });

  test.each([
    ["hidden", "the host's kernel does not give it out"],
    ["newer", "the guest's kernel does not take it in the form of the host's"],
  ])("one that cannot be had in the guest is one warning: %s", async (name, why) => {
    const id = `${ID}-${name}`;
    const timesIn = (log: string): number => log.split(`process.apparmorProfile ${name} is not applied: `).length - 1;
    const said = await start(hearth, id, name, annotations("container"));
    expect([timesIn(said), said]).toEqual([1, expect.stringContaining(why)]);
    expect(await look(hearth, id)).toBe("one two three unconfined");
    const log = join(hearth.dir, `${name}.log`);
    // Its own is known by now.
    await hearth.runtime(["--log", log, "exec", id, "true"]);
    await hearth.runtime(["--log", log, "exec", "--apparmor", name, free, "true"]);
    expect(timesIn(await Bun.file(log).text())).toBe(1);
    await hearth.runtime(["delete", "--force", id]);
  });

  test("one that is replaced on the host is replaced in the guest by the next who names it", async () => {
    host.unload(loaded);
    loaded = host.load(PROFILE, await compileProfile(profileText(PROFILE, "/dev/shm/three")));
    expect(await look(hearth, confined)).toBe(`one two ${PROFILE} (enforce)`);
  });
});

test(
  "a guest whose kernel has no AppArmor runs the container without, with a warning",
  async () => {
    const kernelParams = { kernel_params: "lsm=landlock,lockdown,yama,bpf" };
    await withHearth({ config: { hypervisor: kernelParams } }, async (hearth) => {
      const log = await start(hearth, ID, PROFILE);
      expect(log).toContain(`process.apparmorProfile ${PROFILE} is not applied: `);
      expect(log).toContain("the guest's kernel has no AppArmor");
      await hearth.runtime(["delete", "--force", ID]);
    });
  },
  TIMEOUT_MS,
);

test(
  "nothing is left when loading it fails",
  async () => {
    await withHearth({}, async (hearth) => {
      const bundle = await hearth.bundle({ args: ["true"], config: { process: { apparmorProfile: PROFILE } } });
      const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], {
        env: { HEARTH_FAIL_AT: "load-apparmor-profile" },
      });
      expect([status, stderr]).toEqual([1, expect.stringContaining("load-apparmor-profile: fault injected")]);
    });
  },
  TIMEOUT_MS,
);

test(
  "in a VM of the pool",
  async () => {
    await withHearth({ config: { factory: { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } } }, async (hearth) => {
      await using pool = startPool(hearth, undefined);
      await pool.idle(1);
      await start(hearth, ID, PROFILE);
      expect(await look(hearth, ID)).toEndWith(`${PROFILE} (enforce)`);
      await hearth.runtime(["delete", "--force", ID]);
      expect(await pool.stop()).toBe(0);
    });
  },
  TIMEOUT_MS,
);
