import { expect, test } from "bun:test";
import { mountAttributes } from "./mount-attributes.ts";

const mount = (destination: string, ...options: string[]) => ({ destination, type: "tmpfs", options });

test("crun does not see what only the agent does; everything else is as it was", () => {
  const odd = { destination: 5, options: "x" };
  const plain = mount("/a", "ro", "nosuid");
  const { mounts } = mountAttributes([plain, mount("/b", "nosymfollow", "ro", "rsymfollow"), odd], []);
  expect(mounts).toEqual([plain, mount("/b", "ro"), odd]);
  expect(mounts[0]).toBe(plain);
});

test("without anything to set no process is looked at", () => {
  const views = [mount("/proc", "nosuid", "suid"), mount("/dev", "noexec"), mount("/h", "nosymfollow"), mount("/h")];
  mountAttributes(views, ["/proc/sys", "/dev/../proc/bus"]).apply(-1);
  expect(() => mountAttributes([], [], ["nodev"]).apply(-1)).toThrow("/proc/-1/ns/mnt");
  expect(() => mountAttributes([mount("/proc", "noexec")], ["/proc/sys"]).apply(-1)).toThrow("/proc/-1/ns/mnt");
});
