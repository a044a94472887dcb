import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { MOUNTS_BELOW_MAX } from "../limits.ts";
import type { Spec } from "../oci/spec.ts";
import { type GuestSpecContext, toGuestSpec } from "./guest-spec.ts";

const BINARY = new Uint8Array([1]);
const context: GuestSpecContext = {
  security: { hasSelinux: true, apparmorProfile: (name) => ({ name, binary: BINARY }) },
  containerId: "c1",
  bundle: "/bundle",
  fileTypeOf: (path) => {
    if (path.endsWith(".sock")) return "socket";
    if (path.startsWith("/dev/disk")) return "disk";
    if (path.startsWith("/dev/") && path !== "/dev/shm") return "device";
    if (path.startsWith("/missing")) return "missing";
    return "directory";
  },
  placeInRoot: (_root, path) => join("/", path),
  modeInRoot: (root, path) => (root === "/bundle/rootfs" && path === "/run" ? 0o755 : undefined),
  mountFlags: (path) => (path === "/flagged" ? ["rw", "nosuid", "relatime"] : ["rw", "relatime"]),
  mountsBelow: (path) => (path === "/nested" ? ["a", "a/b"] : []),
  tmpfsAt: (path) => (path.includes("tmpfs") ? { sizeBytes: 65_536, mode: 0o1777, uid: 0, gid: 5 } : undefined),
  hasDevice: ({ major }) => major !== 230,
  containerOfPid: (pid) => (pid === 77 ? "infra" : undefined),
  hasContainer: (id) => id === "infra",
};

function spec(changes: Partial<Spec> = {}): Spec {
  return {
    ociVersion: "1.0.2",
    root: { path: "rootfs" },
    process: { args: ["sh"], cwd: "/", user: { uid: 0, gid: 0 } },
    linux: { namespaces: [{ type: "pid" }, { type: "mount" }, { type: "network", path: "/run/netns/x" }] },
    ...changes,
  };
}

const NAMESPACES = [{ type: "network" }, { type: "mount" }];

describe("paths", () => {
  test("the rootfs comes through the shared directory", () => {
    const guest = toGuestSpec(spec(), context);
    expect(guest.config.root?.path).toBe("/run/hearth/shared/c1/rootfs");
    expect(guest.exposures).toEqual([{ hostPath: "/bundle/rootfs", relativePath: "c1/rootfs", recursive: true }]);
  });

  test("bind mounts too, relative sources starting at the bundle; others stay as they are", () => {
    const mounts = [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/data", type: "bind", source: "data", options: ["rbind", "ro"] },
      { destination: "/etc/hosts", source: "/srv/hosts", options: ["bind"] },
    ];
    const guest = toGuestSpec(spec({ mounts }), context);
    expect(guest.config.mounts?.map((mount) => mount.source)).toEqual([
      "proc",
      "/run/hearth/shared/c1/1/data",
      "/run/hearth/shared/c1/2/hosts",
    ]);
    expect(guest.exposures.map((exposure) => exposure.hostPath)).toEqual([
      "/bundle/rootfs",
      "/bundle/data",
      "/srv/hosts",
    ]);
  });

  test("recursive options are plain ones of what comes as one file system, and later than others; the last of opposites counts", () => {
    const options = ["rbind", "rro", "rnoatime", "noexec", "rexec"];
    const mounts = [
      { destination: "/d", type: "bind", source: "/nested", options },
      { destination: "/e", type: "bind", source: "/bundle/rootfs/d/a", options },
    ];
    const guest = toGuestSpec(spec({ mounts }), context);
    expect(guest.config.mounts?.map((mount) => mount.options)).toEqual([
      ["rbind", "ro", "noatime", "exec"],
      ["rbind", "rro", "noexec", "rexec", "noatime"],
    ]);
  });

  test("the last of several propagations counts", () => {
    const options = ["rshared", "mode=700", "private", "rslave", "ro"];
    const guest = toGuestSpec(
      spec({ mounts: [{ destination: "/d", type: "tmpfs", source: "tmpfs", options }] }),
      context,
    );
    expect(guest.config.mounts?.map((mount) => mount.options)).toEqual([["mode=700", "rslave", "ro"]]);
  });

  test("what is mounted below a source comes with rbind, and read-only is not what is mounted below it", () => {
    const nested = (...options: string[]) =>
      toGuestSpec(spec({ mounts: [{ destination: "/d", type: "bind", source: "/nested", options }] }), context);
    const source = "/run/hearth/shared/c1/0/nested";
    expect(nested("rbind", "ro", "nosuid", "rslave").config.mounts).toEqual([
      { destination: "/d", type: "bind", source, options: ["rbind", "ro", "nosuid", "rslave"] },
      { destination: "/d/a", type: "bind", source: `${source}/a`, options: ["bind", "nosuid", "rslave"] },
      { destination: "/d/a/b", type: "bind", source: `${source}/a/b`, options: ["bind", "nosuid", "rslave"] },
    ]);
    for (const options of [["rbind"], ["rbind", "ro", "rw"], ["rbind", "ro", "rro"], ["bind", "ro"]]) {
      expect(nested(...options).config.mounts).toHaveLength(1);
    }
    expect(nested("rbind").exposures.at(-1)?.recursive).toBe(true);
    expect(nested("bind").exposures.at(-1)?.recursive).toBe(false);
  });

  test("a tmpfs without a mode has that of the directory in the image, and a later bind mount of it is one of it, with its flags", () => {
    const mounts = [
      { destination: "/run", type: "tmpfs", source: "tmpfs", options: ["nosuid"] },
      { destination: "/bundle/rootfs/other", type: "bind", source: "rootfs/run/x", options: ["bind"] },
    ];
    const { config, exposures } = toGuestSpec(spec({ mounts }), context);
    expect(config.mounts).toEqual([
      { destination: "/run", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      {
        destination: "/other",
        type: "bind",
        source: "/run/hearth/shared/c1/rootfs/run/x",
        options: ["bind", "nosuid"],
      },
    ]);
    expect(exposures).toHaveLength(1);
  });

  test("an id-mapped mount is mapped on the host, and the guest does not hear of it", () => {
    const ids = [{ containerID: 0, hostID: 1000, size: 1 }];
    const mount = { destination: "/m", type: "bind", source: "/flagged", options: ["bind", "ridmap"] };
    const { config, exposures } = toGuestSpec(
      spec({ mounts: [{ ...mount, uidMappings: ids, gidMappings: ids }] }),
      context,
    );
    const source = "/run/hearth/shared/c1/0/flagged";
    expect(config.mounts).toEqual([{ destination: "/m", type: "bind", source, options: ["bind", "nosuid"] }]);
    expect(exposures.at(-1)).toMatchObject({ idMapping: { uids: ids, gids: ids, recursive: true } });
  });

  test("a directory that is mounted at the root is the root", () => {
    const mounts = [
      { destination: "/hidden", type: "tmpfs", source: "tmpfs" },
      { destination: "/.", type: "bind", source: "other", options: ["rbind", "ro"] },
      { destination: "/seen", type: "tmpfs", source: "tmpfs" },
    ];
    const { config, hostRootfs, mountPoints } = toGuestSpec(spec({ mounts }), context);
    expect([hostRootfs, config.root?.readonly]).toEqual(["/bundle/other", true]);
    expect(config.mounts?.map(({ destination }) => destination)).toEqual(["/seen"]);
    expect(mountPoints).toEqual([{ path: "/seen", kind: "directory" }]);
    const flagged = [{ destination: "/", type: "bind", source: "other", options: ["bind", "noexec"] }];
    expect(() => toGuestSpec(spec({ mounts: flagged }), context)).toThrow("on the top of rootfs");
  });

  test("a path that is masked twice is masked once", () => {
    const maskedPaths = ["/a", "/b", "/a"];
    const { config } = toGuestSpec(spec({ linux: { namespaces: NAMESPACES, maskedPaths } }), context);
    expect(config.linux?.maskedPaths).toEqual(["/a", "/b"]);
  });

  test("of very many mounts below a read-only one the rest stay read-only, with a warning", () => {
    const mounts = [{ destination: "/d", type: "bind", source: "/many", options: ["rbind", "ro"] }];
    const mountsBelow = () => Array.from({ length: MOUNTS_BELOW_MAX + 2 }, (_, index) => String(index));
    const { config, warnings } = toGuestSpec(spec({ mounts }), { ...context, mountsBelow });
    expect(config.mounts).toHaveLength(MOUNTS_BELOW_MAX + 1);
    expect(warnings).toEqual(["2 mounts below /many are read-only at /d too"]);
  });

  test("the network namespace is the VM's, the cgroup ours, hooks of the host stay on the host", () => {
    const hooks = { prestart: [{ path: "/bin/a" }], startContainer: [{ path: "/bin/b" }] };
    const { config } = toGuestSpec(spec({ hooks }), context);
    expect(config.linux?.namespaces).toEqual([{ type: "pid" }, { type: "mount" }]);
    expect(config.linux?.cgroupsPath).toBe("/hearth/c1");
    expect(config.hooks).toEqual({ startContainer: [{ path: "/bin/b" }] });
  });
});

test("a clone shows its own boot id, wherever and however often /proc is mounted; without /proc nothing is made", () => {
  const mounts = ["/proc", "/other/proc"].map((destination) => ({ destination, type: "proc", source: "proc" }));
  const data = { destination: "/data", type: "bind", source: "data" };
  const guest = toGuestSpec(spec({ mounts: [...mounts, data] }), { ...context, ownBootId: true });
  expect(guest.config.mounts?.map(({ destination, source }) => [destination, source])).toEqual([
    ["/proc", "proc"],
    ["/proc/sys/kernel/random/boot_id", "/run/hearth/shared/,boot-id"],
    ["/other/proc", "proc"],
    ["/other/proc/sys/kernel/random/boot_id", "/run/hearth/shared/,boot-id"],
    ["/data", "/run/hearth/shared/c1/2/data"],
  ]);
  expect(toGuestSpec(spec({ mounts: [data] }), { ...context, ownBootId: true }).config.mounts).toHaveLength(1);
});

describe("pods", () => {
  test("those that an engine keeps by path for a pod are made for its sandbox, and joined by its other containers", () => {
    const crio = (type: string) => ({
      "io.kubernetes.cri-o.ContainerType": type,
      "io.kubernetes.cri-o.SandboxID": "infra",
    });
    const kept = { type: "ipc", path: "/run/ipcns/1" };
    const ipcOf = (type: string, found: string | undefined) => {
      const pod = spec({ annotations: crio(type), linux: { namespaces: [...NAMESPACES, kept] } });
      const known = (wanted: string, path: string) => (wanted === kept.type && path === kept.path ? found : undefined);
      return toGuestSpec(pod, { ...context, containerOfPath: known }).config.linux?.namespaces?.at(-1);
    };
    expect(ipcOf("sandbox", undefined)).toEqual({ type: "ipc" });
    expect(ipcOf("container", "infra")).toEqual({ type: "ipc", path: "container:infra" });
    expect(() => ipcOf("container", undefined)).toThrow("linux.namespaces ipc path");
  });

  test("the namespace of another container of the VM, which is known by its shim's pid, goes by that container's id", () => {
    const namespaces = [...NAMESPACES, { type: "ipc", path: "/proc/77/ns/ipc" }, { type: "pid" }];
    const { config } = toGuestSpec(spec({ linux: { namespaces } }), context);
    expect(config.linux?.namespaces).toEqual([
      { type: "mount" },
      { type: "ipc", path: "container:infra" },
      { type: "pid" },
    ]);
  });

  test("a container that sees cgroups sees its own as the root", () => {
    const mounts = [{ destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup" }];
    const types = (given: Partial<Spec>) => toGuestSpec(spec(given), context).config.linux?.namespaces;
    expect(types({ mounts })).toEqual([{ type: "pid" }, { type: "mount" }, { type: "cgroup" }]);
    const linux = { namespaces: [...NAMESPACES, { type: "cgroup" }] };
    expect(types({ mounts, linux })).toEqual([{ type: "mount" }, { type: "cgroup" }]);
  });

  test("memory that an engine made on the host becomes memory of the guest, the same for all who name it", () => {
    const volume = "/pods/1/volumes/kubernetes.io~empty-dir/tmpfs";
    const mounts = [
      { destination: "/dev/shm", type: "bind", source: "/engine/tmpfs", options: ["rbind", "nosuid"] },
      { destination: "/a", type: "bind", source: volume, options: ["rbind"] },
      { destination: "/b", type: "bind", source: volume, options: ["rbind", "ro"] },
      // On a disk, of the host itself, or of somebody who wants to share it with the host.
      { destination: "/dev/shm", type: "bind", source: "/engine/disk", options: ["bind"] },
      { destination: "/dev/shm", type: "bind", source: "/dev/shm", options: ["bind"] },
      { destination: "/c", type: "bind", source: "/engine/tmpfs", options: ["bind"] },
    ];
    const disk: GuestSpecContext = {
      ...context,
      tmpfsAt: (path) => context.tmpfsAt(path.replace("/dev/shm", "tmpfs")),
    };
    const { config, volumes, exposures } = toGuestSpec(spec({ mounts }), disk);
    const sources = config.mounts?.map(({ source }) => source);
    const [shm, a, b, ...shared] = sources ?? [];
    expect(volumes.map(({ mountPoint }) => mountPoint)).toEqual([String(shm), String(a), String(b)]);
    expect(volumes[0]?.options).toEqual(["size=65536", "mode=1777", "uid=0", "gid=5"]);
    expect(a).toStartWith("/run/hearth/volumes/");
    expect(b).toBe(a);
    expect(shm).not.toBe(a);
    expect(shared).toEqual(["3/disk", "4/shm", "5/tmpfs"].map((name) => `/run/hearth/shared/c1/${name}`));
    expect(exposures.map(({ hostPath }) => hostPath).slice(1)).toEqual(["/engine/disk", "/dev/shm", "/engine/tmpfs"]);
  });

  test("of a volume that only its host changes the guest has a copy, unless it may be written to", () => {
    const source = "/pods/1/volumes/kubernetes.io~secret/s";
    const mounts = [
      { destination: "/a", type: "bind", source, options: ["rbind", "ro"] },
      { destination: "/b", type: "bind", source, options: ["bind", "ro", "noexec"] },
      { destination: "/c", type: "bind", source, options: ["bind", "ro", "rw"] },
      { destination: "/d", type: "bind", source: "/elsewhere", options: ["bind", "ro"] },
    ];
    const guest = toGuestSpec(spec({ mounts }), { ...context, isMirrored: (path) => path === source });
    const [a, b, ...shared] = guest.config.mounts ?? [];
    expect(guest.volumes.map(({ mirrorOf }) => mirrorOf)).toEqual([source, source]);
    expect(a).toMatchObject({ source: String(guest.volumes[0]?.mountPoint), options: ["rbind", "ro"] });
    expect(b).toMatchObject({ source: String(a?.source), options: ["bind", "ro", "noexec"] });
    expect(shared.map((mount) => mount.source)).toEqual([
      "/run/hearth/shared/c1/2/s",
      "/run/hearth/shared/c1/3/elsewhere",
    ]);
    expect(guest.exposures.map(({ hostPath }) => hostPath)).toEqual(["/bundle/rootfs", source, "/elsewhere"]);
  });
});

test("huge pages of the host become the guest's own, with their size where there is one, wherever they are", () => {
  const volume = { sizeBytes: 0, hugepageBytes: 2_097_152, mode: 0o1770, uid: 0, gid: 9 };
  const tmpfsAt = (path: string) => {
    return path.endsWith("sized") ? { ...volume, sizeBytes: 4_194_304 } : path.endsWith("huge") ? volume : undefined;
  };
  const mounts = ["/pods/huge", "/pods/sized"].map((source) => ({ destination: source, type: "bind", source }));
  const { volumes, exposures } = toGuestSpec(spec({ mounts }), { ...context, tmpfsAt });
  expect(volumes.map(({ fsType, options }) => [fsType, options.join()])).toEqual([
    ["hugetlbfs", "pagesize=2097152,mode=1770,uid=0,gid=9"],
    ["hugetlbfs", "pagesize=2097152,size=4194304,mode=1770,uid=0,gid=9"],
  ]);
  expect(exposures).toHaveLength(1);
});

test("a disk is mounted in the guest with its options, and bound from there with its flags and propagation", () => {
  const mount = {
    destination: "/m",
    type: "ext4",
    source: "/dev/disk1",
    options: ["ro", "noatime", "rslave", "silent", "data=ordered"],
  };
  const { config, disks, exposures } = toGuestSpec(spec({ mounts: [mount] }), context);
  const mountPoint = "/run/hearth/disks/c1/0";
  expect(disks).toEqual([
    { hostPath: "/dev/disk1", fsType: "ext4", options: ["ro", "noatime", "data=ordered"], mountPoint },
  ]);
  expect(config.mounts).toEqual([
    { destination: "/m", type: "bind", source: mountPoint, options: ["bind", "ro", "noatime", "rslave"] },
  ]);
  expect(exposures).toHaveLength(1);
});

describe("carried into the guest", () => {
  test("programs of createContainer hooks, by the one file", () => {
    const hook = { path: "/opt/hook", args: ["hook", "a"] };
    const files = { ...context, fileTypeOf: () => "file" as const };
    const guest = toGuestSpec(spec({ hooks: { createContainer: [hook] } }), files);
    expect(guest.exposures).toContainEqual({ hostPath: "/opt/hook", relativePath: "c1/hooks/0", recursive: true });
    expect(guest.config.hooks).toEqual({
      createContainer: [{ ...hook, path: "/run/hearth/shared/c1/hooks/0" }],
    });
  });

  test("mount options without what has no effect in the guest, and a root that leaves propagation to the mounts", () => {
    const mount = {
      destination: "/m",
      type: "tmpfs",
      options: ["silent", "noexec", "iversion", "rshared", "rnoatime"],
    };
    const { mounts, linux } = toGuestSpec(spec({ mounts: [mount] }), context).config;
    expect(mounts).toEqual([{ ...mount, options: ["noexec", "rshared", "noatime"] }]);
    expect(linux?.rootfsPropagation).toBe("private");
  });
});

test("crun, which knows 1.0 only, is given 1.0 whatever 1.x the bundle says", () => {
  expect(toGuestSpec(spec({ ociVersion: "1.3.0" }), context).config.ociVersion).toBe("1.0.2");
});

describe("refused, naming the property", () => {
  const linux = (more: object): Partial<Spec> => ({ linux: { namespaces: NAMESPACES, ...more } });
  const NOTIFYING = {
    defaultAction: "SCMP_ACT_ALLOW",
    listenerPath: "/x",
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
  };
  const bind = (source: string): Partial<Spec> => ({ mounts: [{ destination: "/m", type: "bind", source }] });
  test.each<[string, Partial<Spec>]>([
    ["linux.namespaces without network", { linux: { namespaces: [{ type: "mount" }] } }],
    ["linux.namespaces without mount", { linux: { namespaces: [{ type: "network" }] } }],
    ["linux.namespaces ipc path", linux({ namespaces: [...NAMESPACES, { type: "ipc", path: "/proc/1/ns/ipc" }] })],
    ["linux.intelRdt", linux({ intelRdt: { closID: "x" } })],
    ["linux.namespaces time path", linux({ namespaces: [...NAMESPACES, { type: "time", path: "/proc/1/ns/time" }] })],
    ["linux.memoryPolicy", linux({ memoryPolicy: { mode: "MPOL_LOCAL" } })],
    ["linux.seccomp.listenerPath", linux({ seccomp: NOTIFYING })],
    ["linux.devices /dev/sda", linux({ devices: [{ path: "/dev/sda", type: "b", major: 8, minor: 0 }] })],
    ["linux.resources.rdma", linux({ resources: { rdma: { mlx: { hcaHandles: 1 } } } })],
    ["linux.resources.network", linux({ resources: { network: { classID: 1 } } })],
    ["hooks.createContainer.0", { hooks: { createContainer: [{ path: "/missing/x" }] } }],
    ["hooks.createContainer.0", { hooks: { createContainer: [{ path: "/dev/x" }] } }],
    ["process.execCPUAffinity", { process: { args: ["x"], cwd: "/", user: { uid: 0, gid: 0 }, execCPUAffinity: {} } }],
    ["id-mapped mounts are only", { mounts: [{ destination: "/m", type: "tmpfs", options: ["idmap"] }] }],
    ["id-mapped mounts must", { mounts: [{ destination: "/m", type: "bind", source: "/x", options: ["ridmap"] }] }],
    ["mount /m", bind("/run/docker.sock")],
    ["mount /m", bind("/dev/sda")],
    ["mount /m", { mounts: [{ destination: "/m", type: "ext4", source: "/dev/tty" }] }],
    ["mount /m", { mounts: [{ destination: "/m", type: "nfs", source: "host:/x" }] }],
    ["mount /m", bind("/dev/disk1")],
  ])("%s", (property, changes) => {
    expect(() => toGuestSpec(spec(changes), context)).toThrow(property);
  });

  test("a missing bind source says so", () => {
    expect(() => toGuestSpec(spec(bind("/missing/x")), context)).toThrow("source /missing/x does not exist");
    // Nor is it looked into for a tmpfs on top of it.
    const modeInRoot = (): never => {
      throw new Error("looked into");
    };
    const mounts = ["bind", "tmpfs"].map((type) => ({ destination: "/m", type, source: "/missing/x" }));
    expect(() => toGuestSpec(spec({ mounts }), { ...context, modeInRoot })).toThrow("source /missing/x does not exist");
  });
});

test("an AppArmor profile of the host goes with the process", () => {
  const process = { args: ["x"], cwd: "/", user: { uid: 0, gid: 0 }, apparmorProfile: "p" };
  const guest = toGuestSpec(spec({ process }), context);
  expect(guest).toMatchObject({ config: { process }, profiles: [{ name: "p", binary: BINARY }], warnings: [] });
});

describe("warned about, once each, and not sent to the guest", () => {
  test("labels", () => {
    const guest = toGuestSpec(
      spec({
        process: { args: ["x"], cwd: "/", user: { uid: 0, gid: 0 }, selinuxLabel: "l" },
        linux: {
          mountLabel: "m",
          namespaces: NAMESPACES,
          resources: { cpu: { cpus: "0-1", shares: 512 }, pids: { limit: 10 } },
        },
      }),
      context,
    );
    expect(guest.warnings).toHaveLength(2);
    expect(guest.config.process).not.toHaveProperty("selinuxLabel");
    expect(guest.config.linux).not.toHaveProperty("mountLabel");
    expect(guest.config.linux?.resources).toEqual({ cpu: { shares: 512 }, pids: { limit: 10 } });
  });

  test("SELinux labels, which are refused where the host has no SELinux", () => {
    const process = { args: ["x"], cwd: "/", user: { uid: 0, gid: 0 }, selinuxLabel: "l" };
    const linux = { namespaces: NAMESPACES, mountLabel: "m" };
    const plain = { ...context, security: { ...context.security, hasSelinux: false } };
    expect(() => toGuestSpec(spec({ process }), plain)).toThrow("process.selinuxLabel");
    expect(() => toGuestSpec(spec({ linux }), plain)).toThrow("linux.mountLabel");
  });

  test("devices that mean the same in every kernel pass, and those that the host does not have", () => {
    const devices = [
      { path: "/dev/nobody", type: "b", major: 230, minor: 666 },
      { path: "/dev/null", type: "c", major: 1, minor: 3 },
      { path: "/dev/fuse", type: "c", major: 10, minor: 229 },
    ];
    const guest = toGuestSpec(spec({ linux: { namespaces: NAMESPACES, devices } }), context);
    expect(guest.config.linux?.devices).toEqual(devices);
    expect(guest.warnings).toEqual([]);
  });

  test("devices of the host that a privileged container's engine lists are left out, with one warning", () => {
    const devices = [
      { path: "/dev/null", type: "c", major: 1, minor: 3 },
      { path: "/dev/autofs", type: "c", major: 10, minor: 235 },
      { path: "/dev/vda", type: "b", major: 254, minor: 0 },
    ];
    const guest = (rules: Record<string, unknown>[]) =>
      toGuestSpec(spec({ linux: { namespaces: NAMESPACES, devices, resources: { devices: rules } } }), context);
    const privileged = guest([{ allow: true, access: "rwm" }]);
    expect(privileged.config.linux?.devices).toEqual(devices.slice(0, 1));
    expect(privileged.warnings).toEqual([expect.stringContaining("linux.devices /dev/autofs and 1 more")]);
    const rules = [
      { allow: false, access: "rwm" },
      { allow: true, type: "c", major: 10, minor: 235, access: "rwm" },
    ];
    expect(() => guest(rules)).toThrow("linux.devices /dev/autofs");
    expect(() => guest([])).toThrow("linux.devices /dev/autofs");
  });
});
