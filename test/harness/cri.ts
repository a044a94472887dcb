/** A containerd with its CRI plug-in, a bridge network by CNI, and a client of that interface. */
import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createGrpcClient, GrpcClient } from "../../src/rpc/grpc.ts";
import { RuntimeService } from "../gen/cri_pb.ts";
import { makeImageArchive } from "./busybox.ts";
import { removeEmptyCgroups } from "./cgroups.ts";
import { startContainerd } from "./containerd.ts";
import { type EngineNetns, makeEngineNetns } from "./netns.ts";
import { type ProgramOptions, type ProgramResult, runProgram } from "./program.ts";

const PAUSE_IMAGE = "hearth.test/pause:latest";
const STREAM_PROGRAM = join(import.meta.dir, "../fixtures/cri-stream.ts");
const PORT_FORWARD_PROGRAM = join(import.meta.dir, "../fixtures/cri-port-forward.ts");
/** Where Debian's containernetworking-plugins are. */
const CNI_PLUGINS = "/usr/lib/cni";
export const POD_GATEWAY = "10.99.0.1";
export const POD_GATEWAY6 = "fd99::1";

export interface StreamOptions extends ProgramOptions {
  readonly size?: string;
  readonly until?: string;
}

export interface Cri extends AsyncDisposable {
  readonly runtime: ReturnType<typeof criClient>;
  /** Where pods are reached. */
  readonly netns: EngineNetns;
  /** Parent of the cgroups of pods. */
  readonly cgroupParent: string;
  /**
   * Runs a client of the stream server: its streams and exit status are the process's. `size` is that of a terminal,
   * "100x30"; with `until` it leaves as soon as it was shown that.
   */
  stream(url: string, options?: StreamOptions): Promise<ProgramResult>;
  /** Sends bytes to a port of a pod; resolves when the other side has ended the connection. */
  forward(podSandboxId: string, port: number, stdin: string): Promise<ProgramResult>;
  log(): string;
  /** Pods there are. */
  left(): Promise<string[]>;
  /** Removes them all. */
  clean(): Promise<void>;
}

function criClient(client: GrpcClient) {
  return createGrpcClient(RuntimeService, client);
}

export async function startCri(dir: string, runtimePath: string): Promise<Cri> {
  mkdirSync(dir, { recursive: true });
  await using undo = new AsyncDisposableStack();
  const netns = undo.use(await makeEngineNetns());
  const cgroupParent = `/hearth-test-${randomBytes(4).toString("hex")}`;
  undo.defer(() => removeEmptyCgroups(cgroupParent));
  const criConfig = configuration(dir, runtimePath);
  const containerd = undo.use(await startContainerd(join(dir, "containerd"), { netns, criConfig }));
  const archive = join(dir, "pause.tar");
  await makeImageArchive(archive, PAUSE_IMAGE, join(dir, "pause"), ["sleep", "1000000"]);
  await containerd.mustCtr(["images", "import", archive]);
  const client = undo.use(new GrpcClient(containerd.socket));
  const runtime = criClient(client);
  const left = async (): Promise<string[]> => (await runtime.listPodSandbox({})).items.map(({ id }) => id);
  const clean = async (): Promise<void> => {
    for (const podSandboxId of await left()) {
      await runtime.stopPodSandbox({ podSandboxId });
      await runtime.removePodSandbox({ podSandboxId });
    }
  };
  undo.defer(clean);
  const owned = undo.move();
  return {
    runtime,
    netns,
    cgroupParent,
    log: containerd.log,
    left: async () => (await left()).map((id) => `pod ${id}`),
    clean,
    stream: (url, { size = "", until = "", ...options } = {}) =>
      runProgram(netns.inside([process.execPath, STREAM_PROGRAM, url, size, until]), options),
    forward: async (podSandboxId, port, stdin) => {
      const { url } = await runtime.portForward({ podSandboxId, port: [port] });
      return await runProgram(netns.inside([process.execPath, PORT_FORWARD_PROGRAM, url]), { stdin });
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Sections of containerd's configuration; writes the CNI configuration that they name. */
function configuration(dir: string, runtimePath: string): string[] {
  const networks = join(dir, "net.d");
  mkdirSync(networks);
  const bridge = {
    type: "bridge",
    bridge: "hearth-cni",
    isGateway: true,
    ipam: {
      type: "host-local",
      dataDir: join(dir, "addresses"),
      ranges: [[{ subnet: "10.99.0.0/24" }], [{ subnet: "fd99::/64" }]],
      routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
    },
  };
  const list = { cniVersion: "0.4.0", name: "hearth-test", plugins: [bridge] };
  writeFileSync(join(networks, "10-bridge.conflist"), JSON.stringify(list));
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return [
    `[${cri}]`,
    `sandbox_image = ${JSON.stringify(PAUSE_IMAGE)}`,
    // What the test machine's root may not do, or has not.
    "restrict_oom_score_adj = true",
    "disable_hugetlb_controller = true",
    'stream_server_address = "127.0.0.1"',
    'stream_server_port = "0"',
    `[${cri}.containerd]`,
    'default_runtime_name = "hearth"',
    `[${cri}.containerd.runtimes.hearth]`,
    'runtime_type = "io.containerd.runc.v2"',
    'pod_annotations = ["*"]',
    `[${cri}.containerd.runtimes.hearth.options]`,
    `BinaryName = ${JSON.stringify(runtimePath)}`,
    `[${cri}.cni]`,
    `bin_dir = ${JSON.stringify(CNI_PLUGINS)}`,
    `conf_dir = ${JSON.stringify(networks)}`,
  ];
}
