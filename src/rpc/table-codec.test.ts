/** The table codec against protobuf-es, for every message of the protocols it serves. */
import { describe, expect, test } from "bun:test";
import { create, type DescField, type DescMessage, fromBinary, ScalarType, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { HearthError } from "../errors.ts";
import { file_agent } from "../gen/agent_pb.ts";
import { agentMessages } from "../gen/agent_table.ts";
import { file_health } from "../gen/health_pb.ts";
import { healthMessages } from "../gen/health_table.ts";
import { file_oci, LinuxSyscallSchema } from "../gen/oci_pb.ts";
import { ociMessages } from "../gen/oci_table.ts";
import { file_ttrpc } from "../gen/ttrpc_pb.ts";
import { ttrpcMessages } from "../gen/ttrpc_table.ts";
import { file_types } from "../gen/types_pb.ts";
import { typesMessages } from "../gen/types_table.ts";
import { TableCodec } from "./table-codec.ts";

const codec = new TableCodec(agentMessages, healthMessages, ociMessages, ttrpcMessages, typesMessages);
const messages = [file_agent, file_health, file_oci, file_ttrpc, file_types].flatMap((file) => file.messages);

const SCALARS: Readonly<Partial<Record<ScalarType, fc.Arbitrary<unknown>>>> = {
  [ScalarType.STRING]: fc.string({ unit: "grapheme", maxLength: 6 }),
  [ScalarType.BYTES]: fc.uint8Array({ maxLength: 200 }),
  [ScalarType.BOOL]: fc.boolean(),
  [ScalarType.INT32]: fc.integer(),
  [ScalarType.UINT32]: fc.nat(0xffffffff),
  [ScalarType.INT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.UINT64]: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
};

function scalar(type: ScalarType): fc.Arbitrary<unknown> {
  const arbitrary = SCALARS[type];
  if (arbitrary === undefined) throw new Error(`no arbitrary for ${ScalarType[type]}`);
  return arbitrary;
}

function fieldValue(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const inner = (type: DescMessage): fc.Arbitrary<unknown> => anyMessage(type, depth + 1);
  switch (field.fieldKind) {
    case "scalar":
      return scalar(field.scalar);
    case "enum":
      return fc.constantFrom(...field.enum.values.map(({ number }) => number));
    case "message":
      return fc.option(inner(field.message), { nil: undefined });
    case "list": {
      const item =
        field.listKind === "message"
          ? inner(field.message)
          : field.listKind === "enum"
            ? fc.integer()
            : scalar(field.scalar);
      return fc.array(item, { maxLength: 3 });
    }
    case "map": {
      const value =
        field.mapKind === "message"
          ? inner(field.message)
          : field.mapKind === "scalar"
            ? scalar(field.scalar)
            : fc.nat();
      return fc.dictionary(fc.string({ maxLength: 4 }), value, { maxKeys: 3, noNullPrototype: true });
    }
  }
}

/** What `create` takes. */
function anyMessage(type: DescMessage, depth = 0): fc.Arbitrary<Record<string, unknown>> {
  if (depth > 3) return fc.constant({});
  const parts: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of type.fields) if (field.oneof === undefined) parts[field.localName] = fieldValue(field, depth);
  for (const oneof of type.oneofs) {
    const members = oneof.fields.map((field) =>
      fieldValue(field, depth).map((value) => ({ case: field.localName, value })),
    );
    parts[oneof.localName] = fc.oneof(fc.constant({ case: undefined }), ...members);
  }
  return fc.record(parts);
}

/** Without `$typeName` and with every value plain, for comparison. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name, item]) => name !== "$typeName" && item !== undefined)
      .map(([name, item]) => [name, plain(item)]),
  );
}

describe("the same as protobuf-es", () => {
  test.each(messages.map((type) => [type.typeName, type] as const))("%s", (typeName, type) => {
    fc.assert(
      fc.property(anyMessage(type), (init) => {
        const message = create(type, init);
        const bytes = toBinary(type, message);
        expect(plain(codec.decode(typeName, bytes))).toEqual(plain(message));
        expect(plain(fromBinary(type, codec.encode(typeName, message)))).toEqual(plain(message));
      }),
      { numRuns: 40 },
    );
  });
});

test("two occurrences of a message field merge, of a scalar the last counts", () => {
  const once = (message: object): Uint8Array => codec.encode("grpc.Spec", message);
  const bytes = Buffer.concat([
    once({ Version: "1", Process: { Cwd: "/a", Args: ["x"] } }),
    once({ Version: "2", Process: { Args: ["y"] } }),
  ]);
  expect(codec.decode("grpc.Spec", bytes)).toMatchObject({ Version: "2", Process: { Cwd: "/a", Args: ["x", "y"] } });
});

test("a member of a oneof is there with its default value", () => {
  const message = { ErrnoRet: { case: "errnoret", value: 0 } };
  expect(fromBinary(LinuxSyscallSchema, codec.encode("grpc.LinuxSyscall", message)).ErrnoRet.case).toBe("errnoret");
});

test("a map key named __proto__ is a key", () => {
  const bytes = codec.encode("grpc.Spec", { Annotations: JSON.parse('{"__proto__":"x"}') });
  const { Annotations: map } = codec.decode("grpc.Spec", bytes);
  expect(Object.keys(map ?? {})).toEqual(["__proto__"]);
});

describe("bytes that are no message", () => {
  test("end in a result or invalid-argument", () => {
    fc.assert(
      fc.property(fc.constantFrom(...messages), fc.uint8Array({ maxLength: 80 }), ({ typeName }, bytes) => {
        try {
          codec.decode(typeName, bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(HearthError);
          expect(thrown).toMatchObject({ code: "invalid-argument" });
        }
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    ["truncated text", [0x0a, 0x05, 0x61]],
    ["text that is not UTF-8", [0x0a, 0x01, 0xff]],
    ["endless varint", new Array(12).fill(0x80)],
    ["field number 0", [0x02, 0x00]],
    ["group", [0x0b, 0x0c]],
  ])("%s", (_name, bytes) => {
    expect(() => codec.decode("grpc.StartContainerRequest", Uint8Array.from(bytes))).toThrow("decode protobuf");
  });

  test("values that do not fit are our own bug", () => {
    expect(() => codec.encode("grpc.SignalProcessRequest", { signal: -1 })).toThrow("encode protobuf");
    expect(() => codec.encode("grpc.SignalProcessRequest", { signal: 2 ** 32 })).toThrow("encode protobuf");
    expect(() => codec.encode("grpc.StartContainerRequest", { containerId: 5 })).toThrow("encode protobuf");
  });
});
