import { expect, test } from "bun:test";
import { cleanEnv, DEFAULT_PATH } from "./environment.ts";

test("passes the harmless variables and nothing that loads code", () => {
  const from = {
    PATH: "/bin",
    HOME: "/root",
    TZ: "UTC",
    BUN_OPTIONS: "--preload /tmp/evil.ts",
    BUN_BE_BUN: "1",
    NODE_OPTIONS: "--require /tmp/evil.js",
    LD_PRELOAD: "/tmp/evil.so",
    GLIBC_TUNABLES: "x",
    SECRET: "x",
  };
  expect(cleanEnv({}, from)).toEqual({ PATH: "/bin", HOME: "/root", TZ: "UTC" });
});

test("gives a PATH when there is none, and lets extra variables win", () => {
  expect(cleanEnv({ A: "1", HOME: "/x" }, { HOME: "/root", PATH: "" })).toEqual({
    PATH: DEFAULT_PATH,
    HOME: "/x",
    A: "1",
  });
});
