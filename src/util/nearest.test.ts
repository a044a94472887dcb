import { describe, expect, test } from "bun:test";
import { didYouMean, editDistance, nearestName } from "./nearest.ts";

describe("nearest name", () => {
  test.each([
    ["", "", 0],
    ["abc", "abc", 0],
    ["abc", "", 3],
    ["kitten", "sitting", 3],
    ["defualt", "default", 2],
  ])("editDistance(%p, %p)", (a, b, distance) => {
    expect(editDistance(a, b)).toBe(distance);
    expect(editDistance(b, a)).toBe(distance);
  });

  test("finds a mistyped name and rejects a different one", () => {
    const names = ["default_memory", "default_vcpus", "kernel"];
    expect(nearestName("defualt_memroy", names)).toBe("default_memory");
    expect(nearestName("kernal", names)).toBe("kernel");
    expect(nearestName("something_else", names)).toBeUndefined();
    expect(nearestName("x", [])).toBeUndefined();
    expect(didYouMean("kernal", names)).toBe('; did you mean "kernel"?');
    expect(didYouMean("zzzzzzzz", names)).toBe("");
  });
});
