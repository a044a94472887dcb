import { expect, test } from "bun:test";
import { describeError, firstError, HearthError, toHearthError } from "./errors.ts";

test("causes follow their consequence, each once", () => {
  const cause = new Error("disk is full");
  const error = new HearthError("internal", "write record", { cause: new Error("write: disk is full", { cause }) });
  expect(describeError(error)).toBe("write record: write: disk is full");
  const missing = Object.assign(new Error("ENOENT: no such file or directory, open '/x'"), { code: "ENOENT" });
  expect(describeError(toHearthError(missing, "set x"))).toBe("set x: ENOENT: no such file or directory, open '/x'");
});

test("an error whose cleaning up failed too is still told first", async () => {
  const create = async (): Promise<void> => {
    await using undo = new AsyncDisposableStack();
    undo.defer(() => {
      throw new Error("remove cgroup");
    });
    undo.defer(() => {
      throw new Error("end process");
    });
    throw new HearthError("invalid-argument", "run hook", { exitCode: 7 });
  };
  const thrown = await create().catch((error: unknown) => error);
  expect(describeError(thrown)).toBe(
    "run hook; and then, cleaning up: end process; and then, cleaning up: remove cgroup",
  );
  expect(firstError(thrown)).toMatchObject({ exitCode: 7 });
});
