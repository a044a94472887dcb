import { expect, test } from "bun:test";
import { HearthError } from "../errors.ts";
import { namedHookFailure } from "./hook-failure.ts";

const HOOKS = [{ path: "/opt/first" }, { path: "/opt/second" }];
const failure = (path: string): HearthError =>
  new HearthError("internal", `create container c1: error executing hook \`${path}\` (exit code: 3)`);

test("a hook that was carried into the guest is named as the configuration does", () => {
  expect(namedHookFailure(failure("/run/hearth/shared/c1/hooks/1"), HOOKS)).toMatchObject({
    message: "error running createContainer hook #1: /opt/second: exit status 3",
  });
});

test.each([failure("/opt/own"), failure("/run/hearth/shared/c1/hooks/2"), new Error("other")])(
  "%p is left as it is",
  (thrown) => {
    expect(namedHookFailure(thrown, HOOKS)).toBe(thrown);
  },
);
