/** The agent with real crun on the host: flags of mounts that crun does not know or keep. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rejection } from "../harness/rejection.ts";
import { type HostAgent, newContainerId, readAll, runContainer, startHostAgent } from "./host-agent.ts";

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
  mkdirSync(join(agent.dir, "source/inner"), { recursive: true });
  writeFileSync(join(agent.dir, "source/file"), "file\n");
  symlinkSync("file", join(agent.dir, "source/link"));
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

const tmpfs = (destination: string, ...options: string[]) => ({ destination, type: "tmpfs", source: "t", options });
const bind = (...options: string[]) => ({
  destination: "/m",
  type: "bind",
  source: join(agent.dir, "source"),
  options,
});

/** The output of a script in a container with these mounts. */
async function output(script: string, mounts: readonly object[], linux: object = {}): Promise<string> {
  await using c = await runContainer(agent, ["sh", "-c", script], { mounts, linux });
  return (await readAll(agent.client, c.id, c.id)).toString();
}
const OPTIONS =
  "while read -r _ _ _ _ at options _; do case $at in /m*) echo $at $options;; esac; done < /proc/self/mountinfo";
const ROOT_OPTIONS = OPTIONS.replace("/m*", "/|/m*");
const FOLLOW = "cat /m/link 2>/dev/null || echo refused";

test("symbolic links are not followed where a mount says so", async () => {
  expect(await output(FOLLOW, [bind("bind", "ro", "nosymfollow")])).toBe("refused\n");
  expect(await output(FOLLOW, [bind("bind", "rsymfollow")])).toBe("file\n");
  const fresh = [tmpfs("/m", "ro", "nosymfollow", "nodev"), tmpfs("/other", "nosymfollow"), tmpfs("/other")];
  expect(await output(OPTIONS, fresh)).toBe("/m ro,nodev,relatime,nosymfollow\n");
});

test("recursively, of what is mounted until then and not of what comes later", async () => {
  const mounts = [bind("rbind", "rnosymfollow"), tmpfs("/m/inner", "noexec")];
  expect(await output(OPTIONS, mounts)).toBe("/m rw,relatime,nosymfollow\n/m/inner rw,noexec,relatime\n");
});

test("a read-only path keeps the flags of the mount that it is in", async () => {
  const linux = { readonlyPaths: ["/m/a", "/m/missing", "/bin", "/m/link"] };
  const mounts = [tmpfs("/m", "nosuid", "noexec", "tmpcopyup")];
  mkdirSync(join(agent.dir, "rootfs/m/a"), { recursive: true });
  expect(await output(OPTIONS, mounts, linux)).toBe("/m rw,nosuid,noexec,relatime\n/m/a ro,nosuid,noexec,relatime\n");
});

test("the root has those of the mount that it is on, and read-only paths in it too", async () => {
  mkdirSync(join(agent.dir, "rootfs/m/in"), { recursive: true });
  const linux = { readonlyPaths: ["/m/in"] };
  const rootFlags = ["ro", "nosuid", "nodev", "relatime"];
  await using c = await runContainer(agent, ["sh", "-c", ROOT_OPTIONS], { linux, rootFlags });
  const expected = "/ rw,nosuid,nodev,relatime\n/m/in ro,nosuid,nodev,relatime\n";
  expect((await readAll(agent.client, c.id, c.id)).toString()).toBe(expected);
});

test("a mount that cannot have its flags is an error, and no container", async () => {
  const id = newContainerId();
  // It is hidden by a later one under another name.
  symlinkSync("/m", join(agent.dir, "rootfs/alias"));
  const mounts = [tmpfs("/m/deep", "nosymfollow"), tmpfs("/alias")];
  const ociJson = agent.config(["true"], { mounts });
  const creating = agent.client.agent.createContainer({ containerId: id, execId: id, ociJson });
  expect(await rejection(creating)).toMatchObject({ message: expect.stringContaining("mount /m/deep: set its flags") });
  expect((await agent.lookInside()).crun).not.toContain(id);
});
