import { describe, expect, test } from "bun:test";
import { sysctlPath } from "./sysctl.ts";

describe("names of kernel parameters", () => {
  test.each([
    ["net.ipv4.ip_forward", "net/ipv4/ip_forward"],
    ["net/ipv4/ip_forward", "net/ipv4/ip_forward"],
    ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"],
    ["net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"],
  ])("%s", (name, path) => {
    expect(sysctlPath(name)).toBe(path);
  });

  test.each(["net/../kernel/panic", "net..x", "", "net./../../etc"])("%s is refused", (name) => {
    expect(() => sysctlPath(name)).toThrow("not the name of one");
  });
});
