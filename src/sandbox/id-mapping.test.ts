import { describe, expect, test } from "bun:test";
import { mountIdMapping } from "./id-mapping.ts";

const ids = (hostID: number) => [{ containerID: 0, hostID, size: 10 }];
const NAMESPACE = { namespaces: [{ type: "user" }], uidMappings: ids(1), gidMappings: ids(2) };
const mount = (options: string[], more: object = {}) => ({ destination: "/m", options, ...more });
const OWN = { uidMappings: ids(3), gidMappings: ids(4) };

describe("the id mapping of a mount", () => {
  test.each([
    ["none asked for", mount(["rbind"]), NAMESPACE, undefined],
    ["the namespace's", mount(["rbind", "idmap"]), NAMESPACE, { uids: ids(1), gids: ids(2), recursive: false }],
    ["recursive", mount(["rbind", "idmap", "ridmap"]), NAMESPACE, { uids: ids(1), gids: ids(2), recursive: true }],
    ["its own", mount(["rbind", "ridmap"], OWN), NAMESPACE, { uids: ids(3), gids: ids(4), recursive: true }],
    ["without the option", mount(["rbind"], OWN), {}, { uids: ids(3), gids: ids(4), recursive: false }],
  ])("%s", (_case, given, linux, expected) => {
    expect(mountIdMapping(given, linux, true)).toEqual(expected);
  });

  test.each([
    ["of no bind mount", mount(["idmap"], OWN), {}, false, "only supported for bind-mounts"],
    ["that says of none", mount(["bind", "idmap"]), {}, true, "must have both uid and gid mappings"],
    ["that is half there", mount(["bind"], { uidMappings: ids(1) }), NAMESPACE, true, "must have both"],
    ["that is empty", mount(["bind"], { uidMappings: [], gidMappings: [] }), NAMESPACE, true, "must have both"],
  ])("one %s is an error", (_case, given, linux, isBind, message) => {
    expect(() => mountIdMapping(given, linux, isBind)).toThrow(message);
  });
});
