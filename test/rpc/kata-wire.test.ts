import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { type GrpcVM, type GrpcVMConfig, GrpcVMConfigSchema, GrpcVMSchema } from "../../src/gen/cache_pb.ts";

function sample(name: string): Uint8Array {
  return readFileSync(join(import.meta.dir, "..", "fixtures", "kata-wire", name));
}

function parseJson(bytes: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(bytes));
}

describe("messages of Kata's own VMCache server", () => {
  test.each([
    ["GrpcVM.bin", GrpcVMSchema as GenMessage<GrpcVM | GrpcVMConfig>],
    ["GrpcVMConfig.bin", GrpcVMConfigSchema as GenMessage<GrpcVM | GrpcVMConfig>],
  ])("%s decodes and encodes to the same bytes", (name, schema) => {
    const bytes = sample(name);
    const message = fromBinary(schema, bytes);
    expect(message.$unknown ?? []).toEqual([]);
    expect(Buffer.from(toBinary(schema, message)).equals(bytes)).toBe(true);
  });

  test("the fields mean what they are named", () => {
    const vm = fromBinary(GrpcVMSchema, sample("GrpcVM.bin"));
    expect(vm).toMatchObject({
      id: "ef711c65-cf02-4be8-a59e-605f20cf4cc5",
      proxyURL: "unix:///run/vc/sbs/ef711c65-cf02-4be8-a59e-605f20cf4cc5/proxy.sock",
      cpu: 1,
      memory: 2048,
      cpuDelta: 0,
    });
    expect(vm.proxyPid > 1n).toBe(true);
    expect(parseJson(vm.hypervisor)).toMatchObject({ ID: vm.id });
    const config = fromBinary(GrpcVMConfigSchema, sample("GrpcVMConfig.bin"));
    expect(parseJson(config.Data)).toMatchObject({ HypervisorType: "qemu", HypervisorConfig: { MemorySize: 2048 } });
    expect(parseJson(config.AgentConfig)).toBeObject();
  });
});
