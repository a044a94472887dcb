/**
 * Messages of the pool protocol with their bytes, computed by hand from the numbers and types of their fields. Source:
 * protobuf.dev/programming-guides/encoding: a tag is the field's number times 8 plus 0 (varint) or 2 (bytes).
 */
export interface Vector {
  readonly message: "Empty" | "GrpcVMConfig" | "GrpcVM" | "GrpcStatus" | "GrpcVMStatus";
  /** As the proto3 JSON mapping has them. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly hex: string;
}

const NO_VM = { id: "", hypervisor: "", proxyPid: "0", proxyURL: "", cpu: 0, memory: 0, cpuDelta: 0 };

export const VECTORS: readonly Vector[] = [
  { message: "Empty", fields: {}, hex: "" },
  { message: "GrpcVMConfig", fields: { Data: "", AgentConfig: "" }, hex: "" },
  // 0a: field 1, bytes; 12: field 2, bytes.
  { message: "GrpcVMConfig", fields: { Data: btoa("abc"), AgentConfig: btoa("{}") }, hex: "0a03616263 12027b7d" },
  { message: "GrpcVMConfig", fields: { Data: "", AgentConfig: btoa("\xff\x00") }, hex: "1202ff00" },
  { message: "GrpcVM", fields: NO_VM, hex: "" },
  {
    message: "GrpcVM",
    fields: {
      id: "v1",
      hypervisor: btoa("{}"),
      proxyPid: "300",
      proxyURL: "unix:///s",
      cpu: 1,
      memory: 2048,
      cpuDelta: 3,
    },
    // 300 is 0b10_0101100: ac 02. 2048 is 0b10000_0000000: 80 10.
    hex: "0a027631 12027b7d 18ac02 2209756e69783a2f2f2f73 2801 308010 3803",
  },
  // A negative int64 is ten bytes; the largest one nine, the largest uint32 five.
  { message: "GrpcVM", fields: { ...NO_VM, proxyPid: "-1" }, hex: "18ffffffffffffffffff01" },
  { message: "GrpcVM", fields: { ...NO_VM, proxyPid: "9223372036854775807" }, hex: "18ffffffffffffffff7f" },
  { message: "GrpcVM", fields: { ...NO_VM, memory: 4_294_967_295 }, hex: "30ffffffff0f" },
  { message: "GrpcVM", fields: { ...NO_VM, id: "ü" }, hex: "0a02c3bc" },
  { message: "GrpcStatus", fields: { pid: "0", vmstatus: [] }, hex: "" },
  {
    message: "GrpcStatus",
    fields: {
      pid: "1",
      vmstatus: [
        { pid: "300", cpu: 2, memory: 256 },
        { pid: "0", cpu: 0, memory: 0 },
      ],
    },
    hex: "0801 1208 08ac02 1002 188002 1200",
  },
  { message: "GrpcVMStatus", fields: { pid: "65536", cpu: 240, memory: 128 }, hex: "08808004 10f001 188001" },
];

export function bytesOf(vector: Vector): Uint8Array {
  return Uint8Array.from(Buffer.from(vector.hex.replaceAll(" ", ""), "hex"));
}
