/** AppArmor from end to end, on a host whose kernel has it: what it was given is what a guest is given, and confines there. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { resolve } from "node:path";
import { profileText } from "../harness/apparmor.ts";
import { makeBundle } from "../harness/bundle.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

/** A VM in a VM. */
const TIMEOUT_MS = 1_200_000;
const FIXTURE = resolve(import.meta.dir, "../fixtures/host-profile.ts");
const PROFILE = "hearth-test";
/** What the unit of the pool takes from its processes. Source: packaging/systemd/hearth-vmcache.service. */
const AS_IN_UNIT = ["setpriv", "--no-new-privs", "--bounding-set", "-mac_admin,-mac_override"];

let files: Scratch;
let host: TestHost;
let hearth: NestedHearth;
beforeAll(async () => {
  files = scratch();
  const script = "touch /dev/shm/allowed; touch /dev/shm/denied; cat /proc/self/attr/current; sleep 100000";
  const config = { process: { apparmorProfile: PROFILE } };
  await makeBundle(files.path("bundle"), { args: ["sh", "-c", script], config });
  host = await TestHost.start();
  hearth = await NestedHearth.make(host, "apparmor", {});
  await host.write("/tmp/profile", profileText(PROFILE, "/dev/shm/denied"));
}, TIMEOUT_MS);
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

test(
  "the kernel gives a profile out as it was given, to a process without privileges over its policy",
  async () => {
    const read = (name: string) => host.run([...AS_IN_UNIT, process.execPath, FIXTURE, name]);
    expect((await read(PROFILE)).stderr).toContain("apparmor does not exist");
    await host.sh("mount -t securityfs securityfs /sys/kernel/security");
    expect((await read(PROFILE)).stderr).toContain("it is not loaded on this host");
    await host.sh("apparmor_parser --replace --skip-cache /tmp/profile");
    const given = await host.ok(["apparmor_parser", "--skip-kernel-load", "--skip-cache", "--stdout", "/tmp/profile"]);
    expect((await read(PROFILE)).stdout).toBe(Buffer.from(given.bytes).toString("base64"));
  },
  TIMEOUT_MS,
);

test(
  "a container has it",
  () =>
    hearth.explained(async () => {
      const id = "c1";
      await hearth.start(id, files.path("bundle"));
      const said = await host.sh(`until grep -s enforce /tmp/${id}.out; do sleep 1; done; cat /tmp/${id}.out`);
      expect(said).toContain("touch: /dev/shm/denied: Permission denied");
      expect(said).not.toContain("allowed");
      expect(said).toContain(`${PROFILE} (enforce)`);
      await hearth.runtime("delete", "--force", id);
      expect(await NestedHearth.leftovers(host)).toBe("");
    }),
  TIMEOUT_MS,
);
