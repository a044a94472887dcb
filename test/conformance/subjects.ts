/** The runtimes that cases are performed on: runc, and Hearth with a VM that most cases share as containers of a pod. */
import { join } from "node:path";
import type { Hearth } from "../harness/hearth.ts";
import type { Subject } from "./perform.ts";

/** The pod whose VM cases join. */
const POD_ID = "conformance-pod";

export function runcSubject(dir: string): Subject {
  return { name: "runc", argv: ["runc", "--root", join(dir, "runc-root")], env: {}, adapt: (config) => config };
}

export function hearthSubject(hearth: Hearth): Subject {
  return {
    name: "hearth",
    argv: [hearth.runtimePath],
    env: hearth.env,
    adapt: (config, given) => (given.alone === true ? config : withAnnotations(config, podAnnotations("container"))),
  };
}

/** Makes the pod's sandbox; its VM stays until `stopPod`. */
export async function startPod(hearth: Hearth): Promise<void> {
  const bundle = await hearth.bundle({
    args: ["/bin/sleep", "100000"],
    config: { annotations: podAnnotations("sandbox") },
  });
  const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, POD_ID], {
    outputPath: join(hearth.dir, "pod.log"),
  });
  if (status !== 0) throw new Error(`start pod: ${stdout}`);
}

export async function stopPod(hearth: Hearth): Promise<void> {
  const { status, stderr } = await hearth.runtime(["delete", "--force", POD_ID]);
  if (status !== 0) throw new Error(`stop pod: ${stderr}`);
}

function podAnnotations(type: "sandbox" | "container"): Record<string, string> {
  return { "io.kubernetes.cri.container-type": type, "io.kubernetes.cri.sandbox-id": POD_ID };
}

function withAnnotations(config: Record<string, unknown>, more: Record<string, string>): Record<string, unknown> {
  const own = config["annotations"];
  return { ...config, annotations: { ...(typeof own === "object" ? own : {}), ...more } };
}
