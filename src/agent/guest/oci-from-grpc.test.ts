import { describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { LinuxResourcesSchema, type Spec, SpecSchema } from "../../gen/oci_pb.ts";
import { stringifyOciJson } from "../../oci/json.ts";
import { ociFromResources, ociFromSpec } from "./oci-from-grpc.ts";

type SpecInit = Parameters<typeof create<typeof SpecSchema>>[1];
const convert = (init: SpecInit): unknown => ociFromSpec(create(SpecSchema, init) as Spec);

describe("configuration", () => {
  test("an empty one says nothing but its version", () => {
    expect(convert({})).toEqual({ ociVersion: "1.0.2" });
  });

  test("every property comes through", () => {
    const full = convert({
      Version: "1.1.0",
      Process: {
        Terminal: true,
        ConsoleSize: { Height: 24, Width: 80 },
        User: { UID: 1, GID: 2, AdditionalGids: [3, 4], Username: "u" },
        Args: ["a", ""],
        Env: ["A=b"],
        Cwd: "/w",
        Capabilities: { Bounding: ["CAP_KILL"], Ambient: ["CAP_CHOWN"] },
        Rlimits: [{ Type: "RLIMIT_CORE", Hard: 2n ** 64n - 1n, Soft: 0n }],
        NoNewPrivileges: true,
        ApparmorProfile: "p",
        OOMScoreAdj: -999n,
        SelinuxLabel: "l",
      },
      Root: { Path: "/r", Readonly: true },
      Hostname: "h",
      Mounts: [{ destination: "/d", source: "s", type: "t", options: ["ro"] }, { destination: "/e" }],
      Hooks: { StartContainer: [{ Path: "/h", Args: ["h", "x"], Env: ["E=1"], Timeout: 5n }] },
      Annotations: { k: "v" },
      Linux: {
        UIDMappings: [{ HostID: 1, ContainerID: 0, Size: 5 }],
        GIDMappings: [{ HostID: 2, ContainerID: 0, Size: 6 }],
        Sysctl: { "net.ipv4.ip_forward": "1" },
        CgroupsPath: "/c",
        Namespaces: [{ Type: "pid" }, { Type: "network", Path: "/n" }],
        Devices: [{ Path: "/dev/x", Type: "c", Major: 1n, Minor: 5n, FileMode: 0o666, UID: 7, GID: 8 }],
        RootfsPropagation: "slave",
        MaskedPaths: ["/m"],
        ReadonlyPaths: ["/ro"],
        MountLabel: "ml",
        IntelRdt: { L3CacheSchema: "L3:0=f" },
        Seccomp: {
          DefaultAction: "SCMP_ACT_ERRNO",
          Architectures: ["SCMP_ARCH_X86_64"],
          Flags: ["SECCOMP_FILTER_FLAG_LOG"],
          Syscalls: [
            {
              Names: ["clone"],
              Action: "SCMP_ACT_ALLOW",
              ErrnoRet: { case: "errnoret", value: 1 },
              Args: [{ Index: 0n, Value: 2114060288n, ValueTwo: 0n, Op: "SCMP_CMP_MASKED_EQ" }],
            },
            { Names: ["read"], Action: "SCMP_ACT_ALLOW" },
          ],
        },
      },
    });
    expect(JSON.parse(stringifyOciJson(full))).toEqual({
      ociVersion: "1.1.0",
      process: {
        terminal: true,
        consoleSize: { height: 24, width: 80 },
        user: { uid: 1, gid: 2, additionalGids: [3, 4], username: "u" },
        args: ["a", ""],
        env: ["A=b"],
        cwd: "/w",
        capabilities: { bounding: ["CAP_KILL"], ambient: ["CAP_CHOWN"] },
        rlimits: [{ type: "RLIMIT_CORE", hard: 2 ** 64, soft: 0 }],
        noNewPrivileges: true,
        apparmorProfile: "p",
        oomScoreAdj: -999,
        selinuxLabel: "l",
      },
      root: { path: "/r", readonly: true },
      hostname: "h",
      mounts: [{ destination: "/d", source: "s", type: "t", options: ["ro"] }, { destination: "/e" }],
      hooks: { startContainer: [{ path: "/h", args: ["h", "x"], env: ["E=1"], timeout: 5 }] },
      annotations: { k: "v" },
      linux: {
        uidMappings: [{ hostID: 1, containerID: 0, size: 5 }],
        gidMappings: [{ hostID: 2, containerID: 0, size: 6 }],
        sysctl: { "net.ipv4.ip_forward": "1" },
        cgroupsPath: "/c",
        namespaces: [{ type: "pid" }, { type: "network", path: "/n" }],
        devices: [{ path: "/dev/x", type: "c", major: 1, minor: 5, fileMode: 438, uid: 7, gid: 8 }],
        rootfsPropagation: "slave",
        maskedPaths: ["/m"],
        readonlyPaths: ["/ro"],
        mountLabel: "ml",
        intelRdt: { l3CacheSchema: "L3:0=f" },
        seccomp: {
          defaultAction: "SCMP_ACT_ERRNO",
          architectures: ["SCMP_ARCH_X86_64"],
          flags: ["SECCOMP_FILTER_FLAG_LOG"],
          syscalls: [
            {
              names: ["clone"],
              action: "SCMP_ACT_ALLOW",
              errnoRet: 1,
              args: [{ index: 0, value: 2114060288, op: "SCMP_CMP_MASKED_EQ" }],
            },
            { names: ["read"], action: "SCMP_ACT_ALLOW" },
          ],
        },
      },
    });
    // Exact, where a JavaScript number would not be.
    expect(stringifyOciJson(full)).toContain('"hard":18446744073709551615');
  });

  test("a seccomp message without a default action is no filter", () => {
    expect(convert({ Linux: { Seccomp: {} } })).toEqual({ ociVersion: "1.0.2", linux: {} });
  });
});

describe("resources", () => {
  test("every property comes through", () => {
    const resources = ociFromResources(
      create(LinuxResourcesSchema, {
        Devices: [
          { Allow: false, Access: "rwm" },
          { Allow: true, Type: "c", Major: 1n, Minor: 3n, Access: "rwm" },
          { Allow: true, Type: "c", Major: 136n, Minor: -1n, Access: "rwm" },
          { Allow: true, Type: "c", Major: 5n, Minor: 0n, Access: "rwm" },
        ],
        Memory: { Limit: 100n, Reservation: 50n, Swap: -1n, Swappiness: 60n, DisableOOMKiller: true },
        CPU: { Shares: 512n, Quota: 50000n, Period: 100000n, Cpus: "0-1", Mems: "0" },
        Pids: { Limit: 10n },
        BlockIO: {
          Weight: 100,
          WeightDevice: [{ Major: 8n, Minor: 0n, Weight: 200 }],
          ThrottleReadBpsDevice: [{ Major: 8n, Minor: 0n, Rate: 1000n }],
          ThrottleWriteBpsDevice: [{ Major: 8n, Minor: 1n, Rate: 1001n }],
          ThrottleReadIOPSDevice: [{ Major: 8n, Minor: 2n, Rate: 1002n }],
          ThrottleWriteIOPSDevice: [{ Major: 8n, Minor: 3n, Rate: 1003n }],
        },
        HugepageLimits: [{ Pagesize: "2MB", Limit: 4096n }],
        Network: { ClassID: 7, Priorities: [{ Name: "eth0", Priority: 3 }] },
      }),
    );
    expect(JSON.parse(stringifyOciJson(resources))).toEqual({
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
        { allow: true, type: "c", major: 136, access: "rwm" },
        { allow: true, type: "c", major: 5, minor: 0, access: "rwm" },
      ],
      memory: { limit: 100, reservation: 50, swap: -1, swappiness: 60, disableOOMKiller: true },
      cpu: { shares: 512, quota: 50000, period: 100000, cpus: "0-1", mems: "0" },
      pids: { limit: 10 },
      blockIO: {
        weight: 100,
        weightDevice: [{ major: 8, minor: 0, weight: 200 }],
        throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1000 }],
        throttleWriteBpsDevice: [{ major: 8, minor: 1, rate: 1001 }],
        throttleReadIOPSDevice: [{ major: 8, minor: 2, rate: 1002 }],
        throttleWriteIOPSDevice: [{ major: 8, minor: 3, rate: 1003 }],
      },
      hugepageLimits: [{ pageSize: "2MB", limit: 4096 }],
      network: { classID: 7, priorities: [{ name: "eth0", priority: 3 }] },
    });
  });

  test("none are none", () => {
    expect(ociFromResources(create(LinuxResourcesSchema, { Memory: {}, CPU: {}, Pids: {} }))).toEqual({});
  });
});
