import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { HearthError } from "../../../errors.ts";
import { formatQmpCommand, parseQmpMessage } from "./message.ts";

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}';

describe("parseQmpMessage", () => {
  test.each([
    [
      GREETING,
      { kind: "greeting", version: { major: 7, minor: 2, micro: 22, package: "Debian" }, capabilities: ["oob"] },
    ],
    ['{"return": {}, "id": 3}', { kind: "return", id: 3, value: {} }],
    ['{"return": []}', { kind: "return", id: undefined, value: [] }],
    [
      '{"id": 1, "error": {"class": "GenericError", "desc": "no"}}',
      { kind: "error", id: 1, errorClass: "GenericError", text: "no" },
    ],
    ['{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}', { kind: "event", name: "STOP", data: {} }],
    ['{"event": "X", "data": {"return": 1}}', { kind: "event", name: "X", data: { return: 1 } }],
  ])("%s", (line, message) => {
    expect(parseQmpMessage(line)).toEqual(message as ReturnType<typeof parseQmpMessage>);
  });

  test.each([
    ["SSH-2.0-OpenSSH"],
    ["[]"],
    ["null"],
    ["1"],
    ["{}"],
    ['{"QMP": {}}'],
    ['{"QMP": {"version": {"qemu": {"major": -1, "minor": 0, "micro": 0}}}}'],
    ['{"error": "no"}'],
    ['{"return": 1, "id": "x"}'],
    ['{"event": 7}'],
  ])("refuses %s", (line) => {
    expect(() => parseQmpMessage(line)).toThrow("read qmp message");
  });

  test("random text is an error that quotes little of it", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ maxLength: 500 }), fc.json()), (line) => {
        try {
          parseQmpMessage(line);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(HearthError);
          expect(String(thrown).length).toBeLessThan(700);
        }
      }),
    );
  });
});

test("formatQmpCommand writes one line", () => {
  const line = new TextDecoder().decode(formatQmpCommand("getfd", 7, { fdname: "a\nb" }));
  expect(line).toBe('{"execute":"getfd","arguments":{"fdname":"a\\nb"},"id":7}\n');
});
