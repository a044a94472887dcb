/** A network namespace for an engine: its bridges, addresses, firewall rules and ports are nobody else's. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";

export interface EngineNetns extends AsyncDisposable {
  readonly path: string;
  /** The command line that runs `argv` in it, in the mount namespace that we are in. */
  inside(argv: readonly string[]): string[];
}

/** With loopback up and nothing else. */
export async function makeEngineNetns(): Promise<EngineNetns> {
  const name = `hearth-test-${randomBytes(4).toString("hex")}`;
  await runOrThrow(["ip", "netns", "add", name]);
  const path = join("/run/netns", name);
  await runOrThrow(["ip", "-n", name, "link", "set", "lo", "up"]);
  return {
    path,
    inside: (argv) => ["nsenter", `--net=${path}`, ...argv],
    [Symbol.asyncDispose]: async () => {
      await runOrThrow(["ip", "netns", "delete", name]);
    },
  };
}
