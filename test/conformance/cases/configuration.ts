/** config.md: version, root, host name, extensibility, what is no configuration. */
import { type Case, prints, refuses, type Topic } from "../case.ts";

const version = (ociVersion: unknown): { config: Record<string, unknown> } => ({ config: { ociVersion } });
const accepted = (ociVersion: string): Case =>
  prints(`version ${ociVersion} is accepted`, "config.md#specification-version", "echo ok", "ok", version(ociVersion));

export const CONFIGURATION: Topic = {
  topic: "configuration",
  cases: [
    ...["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"].map(accepted),
    refuses("version 2.0.0 is not", "config.md#specification-version", /ociVersion/, {
      ...version("2.0.0"),
      runcFails: "runc 1.1.5 does not look at the version",
    }),
    refuses("a version that is none", "config.md#specification-version", /ociVersion/, {
      ...version("one"),
      runcFails: "runc 1.1.5 does not look at the version",
    }),
    refuses("no version", "config.md#specification-version", /ociVersion/, {
      ...version(undefined),
      runcFails: "runc 1.1.5 does not look at the version",
    }),
    refuses("a configuration that is not JSON", "config.md", undefined, { configText: "{" }),
    refuses("an empty configuration", "config.md", undefined, { configText: "" }),
    refuses("a property of the wrong type", "config.md#valid-values", undefined, { config: { hostname: 5 } }),
    refuses("no root", "config.md#root", /root/i, { config: { root: undefined } }),
    refuses("a root that does not exist", "config.md#root", /rootfs|nowhere/, {
      config: { root: { path: "nowhere" } },
    }),
    refuses("a root that is a file", "config.md#root", undefined, { config: { root: { path: "config.json" } } }),
    prints("an absolute root", "config.md#root", "cat /mark", "here", {
      config: { root: { path: "$DIR/rootfs" } },
      files: { "rootfs/mark": "here\n" },
    }),
    prints("a relative root of any name", "config.md#root", "test -e /mark || echo other", "other", {
      config: { root: { path: "./other/../rootfs" } },
      directories: ["other"],
    }),
    prints("a root through a symbolic link", "config.md#root", "cat /mark", "here", {
      config: { root: { path: "link" } },
      files: { "rootfs/mark": "here\n" },
      links: { link: "rootfs" },
      runcFails: "runc refuses a root that is a symbolic link",
    }),
    prints("the root is writable by default", "config.md#root", "touch /x && echo ok", "ok"),
    prints("a read-only root", "config.md#root", "touch /x 2>/dev/null || echo read-only", "read-only", {
      config: { root: { readonly: true } },
    }),
    prints("mounts below a read-only root can be written", "config.md#root", "touch /dev/shm/x && echo ok", "ok", {
      config: { root: { readonly: true } },
    }),
    prints("the host name", "config.md#hostname", "hostname", "box", { config: { hostname: "box" } }),
    prints("a host name of 64 characters", "config.md#hostname", "hostname", "h".repeat(64), {
      config: { hostname: "h".repeat(64) },
    }),
    prints("an empty host name is none", "config.md#hostname", 'test -n "$(hostname)" && echo named', "named", {
      config: { hostname: "" },
    }),
    refuses("a host name that no kernel takes", "config.md#hostname", undefined, {
      config: { hostname: "h".repeat(65) },
    }),
    prints("the domain name", "config.md#domainname", "cat /proc/sys/kernel/domainname", "example.test", {
      config: { ociVersion: "1.1.0", domainname: "example.test" },
      runcFails: "domainname came with runc 1.2",
    }),
    refuses("a host name without a UTS namespace", "config.md#hostname", /UTS|uts|host ?name/, {
      config: { linux: { namespaces: ["pid", "network", "ipc", "mount"].map((type) => ({ type })) } },
    }),
    prints("unknown properties are ignored", "config.md#extensibility", "echo ok", "ok", {
      config: { future: { a: 1 }, process: { future: [1] }, linux: { future: "x" }, root: { future: true } },
    }),
    prints("sections of other platforms are ignored", "config.md#platform-specific-configuration", "echo ok", "ok", {
      config: { solaris: { milestone: "x" }, windows: { layerFolders: ["x"] }, freebsd: { devices: [] } },
    }),
    prints("unknown annotations are ignored", "config.md#annotations", "echo ok", "ok", {
      config: { annotations: { "org.example.unknown": "x", "org.example.empty": "" } },
    }),
    refuses("an annotation that is no string", "config.md#annotations", undefined, {
      config: { annotations: { "org.example.number": 5 } },
      alone: true,
    }),
    refuses("an annotation without a key", "config.md#annotations", undefined, {
      config: { annotations: { "": "x" } },
      runcFails: "runc 1.1.5 does not look at the keys",
    }),
    prints("null is as absent", "config.md", "echo ok", "ok", {
      config: { hooks: null, linux: { seccomp: null, resources: null }, process: { rlimits: null } },
    }),
  ],
};
