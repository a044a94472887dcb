/** The agent with real crun on the host: programs that there are and that the kernel does not execute, told in runc's words. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type HostAgent, readAll, runContainer, startHostAgent } from "./host-agent.ts";

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
  const files = { garbage: "\u0001\u0002\u0003", "bin/script": "#!/no/such/interpreter\n" };
  for (const [name, text] of Object.entries(files))
    writeFileSync(join(agent.dir, "rootfs", name), text, { mode: 0o755 });
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

/** More than the kernel takes for one argument. Source: execve(2), MAX_ARG_STRLEN. */
const LONG = "x".repeat(131_073);

describe("the first program of a container", () => {
  test.each([
    ["of no format", ["/garbage"], "exec /garbage: exec format error"],
    ["by a relative path", ["./garbage"], "exec ./garbage: exec format error"],
    ["without its interpreter, found in PATH", ["script"], "exec /bin/script: no such file or directory"],
    ["with too long an argument", ["/bin/sh", "-c", LONG], "exec /bin/sh: argument list too long"],
  ])("%s", async (_case, args, message) => {
    await using c = await runContainer(agent, args);
    expect((await readAll(agent.client, c.id, c.id, "stderr")).toString()).toBe(`${message}\n`);
    expect((await agent.client.agent.waitProcess(c.ids)).status).toBe(1);
  });

  test("on a terminal, without crun's time and colours", async () => {
    await using c = await runContainer(agent, ["/garbage"], { process: { terminal: true } });
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("exec /garbage: exec format error\r\n");
  });
});

describe("one that exec starts", () => {
  const exec = async (containerId: string, args: readonly string[]): Promise<string> => {
    const process = { args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
    const processJson = new TextEncoder().encode(JSON.stringify(process));
    await agent.client.agent.execProcess({ containerId, execId: "e", processJson });
    const said = await readAll(agent.client, containerId, "e", "stderr");
    expect((await agent.client.agent.waitProcess({ containerId, execId: "e" })).status).toBe(1);
    return said.toString();
  };

  test("of no format, also when it has gone before its words are read", async () => {
    await using c = await runContainer(agent, ["sleep", "1000"]);
    expect(await exec(c.id, ["/garbage"])).toMatch(/^exec \/garbage: exec format error\n$/);
  });

  test("what a program says itself stays as it is", async () => {
    await using c = await runContainer(agent, ["sleep", "1000"]);
    const words = "exec: Exec format error\n";
    expect(await exec(c.id, ["sh", "-c", `printf '${words}' >&2; exit 1`])).toBe(words);
  });
});
