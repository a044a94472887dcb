import { expect, test } from "bun:test";
import { SystemError } from "../errors.ts";
import { sdNotify } from "./sd-notify.ts";

test("nobody listens there, or no such name fits", () => {
  for (const path of ["/nonexistent/notify", "@hearth-nobody-listens-here", "x".repeat(200), ""]) {
    expect(() => sdNotify(path, ["READY=1"])).toThrow(SystemError);
  }
});
