/** A client of the pool that Debian's protoc generates from a protocol of Kata's shape; see test/fixtures/kata-client. */
import { join } from "node:path";
import { mustRunProgram } from "./program.ts";

const SOURCE = join(import.meta.dir, "../fixtures/kata-client");
/** Debian's: the packages that the client imports are for this one alone. */
const PYTHON = "/usr/bin/python3";

export interface KataVector {
  /** The decoded fields as the proto3 JSON mapping has them: 64-bit numbers are strings, bytes base64. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** Encoded again. */
  readonly hex: string;
}

export interface KataCall extends KataVector {
  readonly method: string;
  /** gRPC status by name; only of a call that failed, which has no answer. */
  readonly status?: string;
}

export interface KataClient {
  vectors(vectors: readonly { readonly message: string; readonly hex: string }[]): Promise<KataVector[]>;
  call(socket: string, methods: readonly string[]): Promise<KataCall[]>;
  /** Status by name of each unusual request. */
  odd(socket: string): Promise<Record<string, string>>;
}

/** Generates the client's code into the directory. */
export async function generateKataClient(dir: string): Promise<KataClient> {
  const plugin = "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin";
  const outputs = [`--python_out=${dir}`, `--grpc_python_out=${dir}`];
  await mustRunProgram(["protoc", plugin, ...outputs, `--proto_path=${SOURCE}`, "cache.proto"]);
  const run = async (args: readonly string[], stdin = ""): Promise<unknown> => {
    const argv = [PYTHON, "-B", join(SOURCE, "client.py"), dir, ...args];
    return JSON.parse((await mustRunProgram(argv, { stdin, timeoutMs: 120_000 })).stdout);
  };
  return {
    vectors: async (vectors) => (await run(["vectors"], JSON.stringify(vectors))) as KataVector[],
    call: async (socket, methods) => (await run(["call", socket, ...methods])) as KataCall[],
    odd: async (socket) => Object.assign({}, ...((await run(["odd", socket])) as object[])),
  };
}
