import { describe, expect, test } from "bun:test";
import { ociConfig } from "./oci-view.ts";

function personalityOf(linux: object): unknown {
  const { json } = ociConfig({ text: JSON.stringify({ ociVersion: "1.0.2", linux }) }, "c1");
  return JSON.parse(json).linux.personality;
}

describe("personality", () => {
  test("a container gets address randomisation back, which crun itself runs without", () => {
    expect(personalityOf({ cgroupsPath: "/hearth/c1" })).toEqual({ domain: "LINUX" });
    expect(personalityOf({})).toEqual({ domain: "LINUX" });
  });

  test("one that the configuration asks for stays", () => {
    expect(personalityOf({ personality: { domain: "LINUX32" } })).toEqual({ domain: "LINUX32" });
  });
});

describe("namespaces of other containers", () => {
  const text = JSON.stringify({ linux: { namespaces: [{ type: "uts", path: "container:infra" }, { type: "pid" }] } });

  test("get the path that they have in the guest", () => {
    const { json } = ociConfig({ text }, "c1", { initPidOf: (id) => (id === "infra" ? 41 : 0) });
    expect(JSON.parse(json).linux.namespaces).toEqual([{ type: "uts", path: "/proc/41/ns/uts" }, { type: "pid" }]);
  });

  test("cannot be joined where there are none", () => {
    expect(() => ociConfig({ text }, "c1")).toThrow("join uts namespace of container infra");
  });
});

describe("time namespaces", () => {
  const view = (namespaces: object[], timeOffsets?: object) =>
    ociConfig({ text: JSON.stringify({ linux: { namespaces, timeOffsets } }) }, "c1", { initPidOf: () => 41 });

  test("are kept from crun, and so are their offsets", () => {
    const offsets = { monotonic: { secs: -5, nanosecs: 7 }, boottime: { secs: 3 } };
    const { json, timeNamespace } = view([{ type: "pid" }, { type: "time" }], offsets);
    expect(JSON.parse(json).linux).toMatchObject({ namespaces: [{ type: "pid" }] });
    expect(JSON.parse(json).linux.timeOffsets).toBeUndefined();
    expect(timeNamespace).toEqual({ kind: "new", offsets: "monotonic -5 7\nboottime 3 0\n" });
  });

  test("of another container are joined by the path that they have in the guest", () => {
    const { timeNamespace } = view([{ type: "time", path: "container:infra" }]);
    expect(timeNamespace).toEqual({ kind: "joined", path: "/proc/41/ns/time" });
  });

  test("have offsets of two clocks alone", () => {
    expect(() => view([{ type: "time" }], { realtime: { secs: 1 } })).toThrow("linux.timeOffsets.realtime");
    expect(() => view([{ type: "time" }], { boottime: { secs: "1" } })).toThrow("linux.timeOffsets.boottime");
  });

  test("that nobody asks for are not made", () => {
    expect(view([{ type: "pid" }]).timeNamespace).toBeUndefined();
  });
});

describe("sysctls of the network", () => {
  const sysctl = { "net.ipv4.ping_group_range": "0 0", "kernel.shmmax": "1" };
  const view = (namespaces: object[]) => ociConfig({ text: JSON.stringify({ linux: { sysctl, namespaces } }) }, "c1");

  test("are the agent's to set, as the network namespace is the VM's", () => {
    const { json, networkSysctls } = view([{ type: "ipc" }]);
    expect(networkSysctls).toEqual({ "net.ipv4.ping_group_range": "0 0" });
    expect(JSON.parse(json).linux.sysctl).toEqual({ "kernel.shmmax": "1" });
  });

  test("are crun's where it makes a network namespace", () => {
    const { json, networkSysctls } = view([{ type: "network" }]);
    expect(networkSysctls).toEqual({});
    expect(JSON.parse(json).linux.sysctl).toEqual(sysctl);
  });
});

describe("a user namespace, whose network is the VM's", () => {
  const PORTS = "net.ipv4.ip_unprivileged_port_start";
  const sysfsMount = { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] };
  const others = [
    { destination: "/proc", type: "proc" },
    { destination: "/m", type: "bind", source: "/s" },
  ];
  const view = (types: string[], sysctl = {}, mounts: object[] = [...others, sysfsMount]) => {
    const config = { mounts, linux: { sysctl, namespaces: types.map((type) => ({ type })) } };
    const { json, ...rest } = ociConfig({ text: JSON.stringify(config) }, "c1", { sysfs: "/run/s" });
    return { ...rest, mounts: JSON.parse(json).mounts };
  };

  test("gets a sysfs of the guest's, with the options that it is given", () => {
    const bound = { destination: "/sys", type: "bind", source: "/run/s", options: ["bind", "ro"] };
    expect(view(["user"])).toMatchObject({ bindsSysfs: true, mounts: [...others, bound] });
    expect(view(["user"], {}, [{ destination: "/sys", type: "sysfs" }]).mounts).toEqual([
      { ...bound, options: ["bind", "nosuid", "noexec", "nodev"] },
    ]);
    expect(view(["user"], {}, others).bindsSysfs).toBe(false);
  });

  test("gets every port, if nothing is said of them", () => {
    expect(view(["user"]).networkSysctls).toEqual({ [PORTS]: "0" });
    expect(view(["user"], { [PORTS]: "80" }).networkSysctls).toEqual({ [PORTS]: "80" });
  });

  test.each([["pid"], ["user,network"]])("%s changes nothing", (types) => {
    expect(view(types.split(","))).toMatchObject({
      bindsSysfs: false,
      networkSysctls: {},
      mounts: [...others, sysfsMount],
    });
  });
});

describe("what the agent reads", () => {
  const view = (config: object) => ociConfig({ text: JSON.stringify(config) }, "c1");

  test("of an empty configuration", () => {
    expect(view({})).toMatchObject({
      terminal: false,
      program: undefined,
      cgroupPath: "/hearth/c1",
      hasPoststart: false,
      hasPoststop: false,
      ownPidNamespace: false,
    });
  });

  test("terminal, program, hooks, pid namespace", () => {
    const config = {
      process: { terminal: true, args: ["sh", "-c"] },
      hooks: { poststart: [{ path: "/x" }], poststop: [] },
      linux: { namespaces: [{ type: "pid" }] },
    };
    expect(view(config)).toMatchObject({
      terminal: true,
      program: "sh",
      hasPoststart: true,
      hasPoststop: false,
      ownPidNamespace: true,
    });
    expect(view({ linux: { namespaces: [{ type: "pid", path: "/p" }] } }).ownPidNamespace).toBe(false);
  });

  test.each([
    ["/a/b", "/a/b"],
    ["a/b", "/a/b"],
    ["/a/../../b", "/b"],
    ["/", "/hearth/c1"],
    ["..", "/hearth/c1"],
    ["", "/hearth/c1"],
    ["system.slice:cri:x", "/hearth/c1"],
  ])("cgroup path %p becomes %p, for crun too", (path, expected) => {
    const config = view({ linux: { cgroupsPath: path } });
    expect(config.cgroupPath).toBe(expected);
    expect(JSON.parse(config.json).linux.cgroupsPath).toBe(expected);
  });

  test("integers beyond 2^53 and unknown properties stay as they are", () => {
    const text = '{"process":{"rlimits":[{"type":"x","hard":18446744073709551615,"soft":1}]},"future":{"a":1}}';
    const { json } = ociConfig({ text }, "c1");
    expect(json).toContain('"hard":18446744073709551615');
    expect(JSON.parse(json).future).toEqual({ a: 1 });
  });

  test.each([[5], ["x"], [[]], [{ process: 5 }], [{ linux: [] }], [{ hooks: { poststart: {} } }]])(
    "%p is refused",
    (config) => {
      expect(() => ociConfig({ text: JSON.stringify(config) }, "c1")).toThrow("read");
    },
  );
});

describe("changes", () => {
  test("a shared pid namespace takes the place of an own one", () => {
    const linux = { namespaces: [{ type: "pid" }, { type: "mount" }] };
    const config = ociConfig({ text: JSON.stringify({ linux }) }, "c1", { pidNamespace: "/proc/7/ns/pid" });
    expect(JSON.parse(config.json).linux.namespaces).toEqual([
      { type: "mount" },
      { type: "pid", path: "/proc/7/ns/pid" },
    ]);
    expect(config.ownPidNamespace).toBe(false);
  });

  test("device numbers of the host become the guest's, also when the two overlap", () => {
    const linux = {
      devices: [
        { path: "/dev/a", type: "b", major: 8, minor: 0 },
        { path: "/dev/b", type: "b", major: 8, minor: 16 },
        { path: "/dev/c", type: "c", major: 1, minor: 3 },
      ],
      resources: {
        devices: [
          { allow: false, access: "rwm" },
          { allow: true, type: "b", major: 8, minor: 0, access: "r" },
          { allow: true, type: "b", major: 8, minor: 16, access: "w" },
        ],
        pids: { limit: 5 },
      },
    };
    const config = ociConfig({ text: JSON.stringify({ linux }) }, "c1", {
      devices: [
        { containerPath: "/dev/a", type: "b", major: 8, minor: 16 },
        { containerPath: "/dev/b", type: "b", major: 254, minor: 0 },
      ],
    });
    const changed = JSON.parse(config.json).linux;
    expect(changed.devices).toEqual([
      { path: "/dev/a", type: "b", major: 8, minor: 16 },
      { path: "/dev/b", type: "b", major: 254, minor: 0 },
      { path: "/dev/c", type: "c", major: 1, minor: 3 },
    ]);
    expect(changed.resources).toEqual({
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "b", major: 8, minor: 16, access: "r" },
        { allow: true, type: "b", major: 254, minor: 0, access: "w" },
      ],
      pids: { limit: 5 },
    });
  });

  test("a device that the configuration does not have is refused", () => {
    const devices = [{ containerPath: "/dev/a", type: "b", major: 8, minor: 16 }] as const;
    expect(() => ociConfig({ text: "{}" }, "c1", { devices })).toThrow("use device /dev/a");
  });
});
