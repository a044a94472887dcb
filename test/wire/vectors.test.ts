import { expect, test } from "bun:test";
import { type DescMessage, fromBinary, fromJson, type JsonObject, toBinary } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { GrpcStatusSchema, GrpcVMConfigSchema, GrpcVMSchema, GrpcVMStatusSchema } from "../../src/gen/cache_pb.ts";
import { generateKataClient } from "../harness/kata-client.ts";
import { scratch } from "../harness/scratch.ts";
import { bytesOf, VECTORS, type Vector } from "./vectors.ts";

const SCHEMAS: Readonly<Record<Vector["message"], DescMessage>> = {
  Empty: EmptySchema,
  GrpcVMConfig: GrpcVMConfigSchema,
  GrpcVM: GrpcVMSchema,
  GrpcStatus: GrpcStatusSchema,
  GrpcVMStatus: GrpcVMStatusSchema,
};

test.each(VECTORS.map((vector) => [`${vector.message} ${vector.hex}`, vector] as const))(
  "%s: our code encodes the fields to these bytes, and decodes them",
  (_name, vector) => {
    const schema = SCHEMAS[vector.message];
    const message = fromJson(schema, vector.fields as JsonObject);
    expect(Buffer.from(toBinary(schema, message)).toString("hex")).toBe(vector.hex.replaceAll(" ", ""));
    expect(fromBinary(schema, bytesOf(vector))).toEqual(message);
  },
);

test("the other toolchain reads and writes the same", async () => {
  using dir = scratch();
  const client = await generateKataClient(dir.dir);
  const vectors = VECTORS.map(({ message, hex }) => ({ message, hex: hex.replaceAll(" ", "") }));
  expect(await client.vectors(vectors)).toEqual(
    VECTORS.map(({ fields, hex }) => ({ fields, hex: hex.replaceAll(" ", "") })),
  );
});
