import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { featuresWith } from "./features.ts";

const FEATURES = featuresWith("virtio-fs");

/** The Features structure as features.md and features-linux.md of the OCI runtime spec 1.3 describe it; no other members. */
const strings = v.array(v.string());
const enabled = v.optional(v.strictObject({ enabled: v.optional(v.boolean()) }));
const named = (prefix: string) => v.array(v.pipe(v.string(), v.regex(new RegExp(`^${prefix}[A-Z0-9_]+$`))));
const version = v.pipe(v.string(), v.regex(/^\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?$/));
const FeaturesSchema = v.strictObject({
  ociVersionMin: version,
  ociVersionMax: version,
  hooks: v.optional(
    v.array(v.picklist(["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"])),
  ),
  mountOptions: v.optional(strings),
  annotations: v.optional(v.record(v.pipe(v.string(), v.nonEmpty()), v.string())),
  potentiallyUnsafeConfigAnnotations: v.optional(strings),
  linux: v.optional(
    v.strictObject({
      namespaces: v.optional(v.array(v.picklist(["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]))),
      capabilities: v.optional(named("CAP_")),
      cgroup: v.optional(
        v.strictObject({
          v1: v.optional(v.boolean()),
          v2: v.optional(v.boolean()),
          systemd: v.optional(v.boolean()),
          systemdUser: v.optional(v.boolean()),
          rdma: v.optional(v.boolean()),
        }),
      ),
      seccomp: v.optional(
        v.strictObject({
          enabled: v.optional(v.boolean()),
          actions: v.optional(named("SCMP_ACT_")),
          operators: v.optional(named("SCMP_CMP_")),
          archs: v.optional(named("SCMP_ARCH_")),
          knownFlags: v.optional(named("SECCOMP_FILTER_FLAG_")),
          supportedFlags: v.optional(named("SECCOMP_FILTER_FLAG_")),
        }),
      ),
      apparmor: enabled,
      selinux: enabled,
      intelRdt: v.optional(
        v.strictObject({
          enabled: v.optional(v.boolean()),
          schemata: v.optional(v.boolean()),
          monitoring: v.optional(v.boolean()),
        }),
      ),
      memoryPolicy: v.optional(v.strictObject({ modes: v.optional(strings), flags: v.optional(strings) })),
      mountExtensions: v.optional(v.strictObject({ idmap: enabled })),
      netDevices: enabled,
    }),
  ),
});

/** What config.md says that runtimes MUST implement. */
const MOUNT_OPTIONS_REQUIRED = (
  "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec noiversion " +
  "nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared rslave runbindable rw " +
  "shared silent slave strictatime suid sync unbindable"
).split(" ");

describe("features", () => {
  test("are as the spec describes them", () => {
    expect(v.safeParse(FeaturesSchema, JSON.parse(JSON.stringify(FEATURES))).issues).toBeUndefined();
  });

  test("id-mapped mounts are one where the file server can make files in them", () => {
    const enabled = (["virtio-fs", "virtio-9p"] as const).map(
      (fs) => featuresWith(fs).linux.mountExtensions.idmap.enabled,
    );
    expect(enabled).toEqual([true, false]);
  });

  test("the newest version is not below the oldest", () => {
    expect(Bun.semver.order(FEATURES.ociVersionMax, FEATURES.ociVersionMin)).toBeGreaterThanOrEqual(0);
  });

  test("have every mount option that the spec demands, and each once", () => {
    expect(MOUNT_OPTIONS_REQUIRED.filter((option) => !FEATURES.mountOptions.includes(option))).toEqual([]);
    expect(new Set(FEATURES.mountOptions).size).toBe(FEATURES.mountOptions.length);
  });
});
