import { expect, test } from "bun:test";
import { mountedSource, mountsInRootfs } from "./rootfs-mounts.ts";

const ROOTFS = "/bundle/rootfs";
const at = (destination: string, type = "tmpfs", ...options: string[]) => ({ destination, type, source: "x", options });
const modeOf = (destination: string): number | undefined => (destination === "/old" ? 0o1710 : undefined);

test("destinations may begin with the root's path on the host", () => {
  const mounts = [at(`${ROOTFS}/a/b`), at("/bundle/rootfs2"), at("rel"), at(ROOTFS)];
  const destinations = mountsInRootfs(mounts, ROOTFS, modeOf).map(({ destination }) => destination);
  expect(destinations).toEqual(["/a/b", "/bundle/rootfs2", "rel", "/"]);
  expect(mountsInRootfs([at("/a")], "/", modeOf)).toEqual([at("/a")]);
});

test.each([
  ["the mode of the directory that it covers", [at("/old")], ["mode=1710"]],
  ["none where there is no directory", [at("/new")], []],
  ["its own", [at("/old", "tmpfs", "mode=700")], ["mode=700"]],
  ["none of a directory that an earlier mount hides", [at("/old/.."), at("/old")], []],
  ["none when it is no tmpfs", [at("/old", "ramfs")], []],
])("a tmpfs has %s", (_name, mounts, options) => {
  expect(mountsInRootfs(mounts, ROOTFS, modeOf).at(-1)?.options).toEqual(options);
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
