import { expect, test } from "bun:test";
import { join } from "node:path";
import { mountedSource, mountPointsOf, mountsInRootfs } from "./rootfs-mounts.ts";

const ROOTFS = "/bundle/rootfs";
const bind = (destination: string, source: string) => ({ destination, source, type: "bind", options: ["bind"] });
const at = (destination: string, type = "tmpfs", ...options: string[]) => ({ destination, type, source: "x", options });
const VIEW = {
  modeOf: (path: string, source = ""): number | undefined =>
    new Map([
      ["/old", 0o1710],
      ["src/", 0o750],
      ["src/old", 0o711],
    ]).get(`${source}${path}`),
  placeOf: (path: string): string => join("/", path.replace(/^\/link/, "/proc")),
};

test("destinations may begin with the root's path on the host", () => {
  const mounts = [at(`${ROOTFS}/a/b`), at("/bundle/rootfs2"), at("rel"), at("/c/../d/")];
  const destinations = mountsInRootfs(mounts, ROOTFS, VIEW).map(({ destination }) => destination);
  expect(destinations).toEqual(["/a/b", "/bundle/rootfs2", "/rel", "/d/"]);
  expect(mountsInRootfs([at("/a")], "/", VIEW)).toEqual([at("/a")]);
});

test("what is at the place is known to be hidden by the mounts before it, and not by those after it", () => {
  const hidden: boolean[] = [];
  const placeOf = (path: string, isHidden: (place: string) => boolean): string => {
    hidden.push(isHidden("/a/b"));
    return path;
  };
  mountsInRootfs([at("/x"), at("/a"), at("/y")], ROOTFS, { ...VIEW, placeOf });
  expect(hidden).toEqual([false, false, true]);
});

test.each([
  ["/", "tmpfs", "on the top of rootfs"],
  [ROOTFS, "bind", "on the top of rootfs"],
  ["/proc", "tmpfs", "not of type proc"],
  ["/proc/self", "bind", "inside /proc"],
  ["/link/sys", "bind", "inside /proc"],
  ["/link/cpuinfo", "bind", undefined],
  ["/proc", "proc", undefined],
  ["/procs", "bind", undefined],
])("a mount at %s of type %s", (destination, type, message) => {
  const place = () => mountsInRootfs([at(destination, type)], ROOTFS, VIEW);
  if (message === undefined) expect(place()).toHaveLength(1);
  else expect(place).toThrow(message);
});

test.each([
  ["the mode of the directory that it covers", [at("/old")], ["mode=1710"]],
  ["none where there is no directory", [at("/new")], []],
  ["its own", [at("/old", "tmpfs", "mode=700")], ["mode=700"]],
  ["none of a directory that an earlier mount hides", [at("/old", "proc"), at("/old")], []],
  ["the mode of the directory that is mounted there", [bind("/b", "src"), at("/b")], ["mode=750"]],
  ["the mode of a directory in one that is mounted", [bind("/b", "src"), at("/b/old")], ["mode=711"]],
  ["none where a mounted directory has none", [bind("/b", "src"), at("/b/new")], []],
  ["the mode of a tmpfs that is mounted there", [at("/new", "tmpfs", "mode=700"), at("/new")], ["mode=700"]],
  ["the mode that a tmpfs there has from the root", [at("/old"), at("/old")], ["mode=1710"]],
  ["none where only a tmpfs is mounted", [at("/new"), at("/new")], []],
  ["none when it is no tmpfs", [at("/old", "ramfs")], []],
])("a tmpfs has %s", (_name, mounts, options) => {
  expect(mountsInRootfs(mounts, ROOTFS, VIEW).at(-1)?.options).toEqual(options);
});

test("mount points are those that no earlier mount hides", () => {
  const mounts = [at("/a"), at("/a/b"), bind("/c", "dir"), bind("/d", "one"), bind("/e", "gone")];
  const typeOf = (source: string): string => ({ dir: "directory", one: "file" })[source] ?? "missing";
  expect(mountPointsOf(mounts, typeOf)).toEqual([
    { path: "/a", kind: "directory" },
    { path: "/c", kind: "directory" },
    { path: "/d", kind: "file" },
    { path: "/e", kind: "unknown" },
  ]);
});

test.each([
  [`${ROOTFS}/m`, "m"],
  [`${ROOTFS}/m/deep/er`, "m/deep/er"],
  [`${ROOTFS}/mm`, undefined],
  [ROOTFS, undefined],
  ["/m", undefined],
])("the source %s is in a mount made before at %p", (source, expected) => {
  expect(mountedSource(source, ROOTFS, [at("/m")])).toBe(expected);
});
