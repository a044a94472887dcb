import { describe, expect, test } from "bun:test";
import { ociConfig } from "./oci-view.ts";

function personalityOf(linux: object): unknown {
  const { json } = ociConfig({ text: JSON.stringify({ ociVersion: "1.0.2", linux }) }, "c1");
  return JSON.parse(json).linux.personality;
}

describe("personality", () => {
  test("a container gets address randomisation back, which crun itself runs without", () => {
    expect(personalityOf({ cgroupsPath: "/hearth/c1" })).toEqual({ domain: "LINUX" });
    expect(personalityOf({})).toEqual({ domain: "LINUX" });
  });

  test("one that the configuration asks for stays", () => {
    expect(personalityOf({ personality: { domain: "LINUX32" } })).toEqual({ domain: "LINUX32" });
  });
});
