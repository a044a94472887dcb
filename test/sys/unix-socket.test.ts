import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ByteStream, chunks } from "../../src/sys/byte-stream.ts";
import { socketpair } from "../../src/sys/fd.ts";
import { runProcess } from "../../src/sys/run-process.ts";
import { adoptSocket } from "../../src/sys/socket-stream.ts";
import { connectUnix, listenUnix } from "../../src/sys/unix-socket.ts";
import { sleep } from "../../src/util/wait.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-sock-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

async function pair(): Promise<[ByteStream, ByteStream]> {
  const [left, right] = socketpair();
  return [await adoptSocket(left), await adoptSocket(right)];
}

async function readAll(stream: ByteStream): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks(stream)) parts.push(chunk);
  return Buffer.concat(parts);
}

describe("listenUnix", () => {
  test("makes a 0600 socket, serves, and removes it", async () => {
    const path = join(dir, "s");
    {
      await using _server = await listenUnix(path, async (stream) => {
        for await (const chunk of chunks(stream)) await stream.write(chunk);
        stream.close();
      });
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(readdirSync(dir)).toEqual(["s"]);
      await using client = await connectUnix(path);
      await client.write(Buffer.from("hello"));
      client.endWrite();
      expect(Buffer.from(await readAll(client)).toString()).toBe("hello");
    }
    expect(existsSync(path)).toBe(false);
  });

  test("replaces a stale socket and only a stale one", async () => {
    const path = join(dir, "s");
    const leave = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); process.kill(process.pid, 9);`;
    expect((await runProcess([process.execPath, "-e", leave])).exitCode).toBe(137);
    expect(existsSync(path)).toBe(true);
    await using server = await listenUnix(path, (stream) => stream.close());
    await expect(listenUnix(path, () => {})).rejects.toMatchObject({ code: "already-exists" });
    await using client = await connectUnix(path);
    expect(await client.read()).toBeNull();
    expect(server.path).toBe(path);
  });

  test("refuses a path that is a file, and leaves it", async () => {
    const path = join(dir, "s");
    writeFileSync(path, "precious");
    await expect(listenUnix(path, () => {})).rejects.toMatchObject({ code: "already-exists" });
    expect(await Bun.file(path).text()).toBe("precious");
    expect(readdirSync(dir)).toEqual(["s"]);
  });

  test("leaves the file of a successor when it closes", async () => {
    const path = join(dir, "s");
    const first = await listenUnix(path, () => {});
    rmSync(path);
    await using _second = await listenUnix(path, () => {});
    first.close();
    expect(existsSync(path)).toBe(true);
    (await connectUnix(path)).close();
  });

  test("of two servers at once one wins", async () => {
    const path = join(dir, "s");
    const results = await Promise.allSettled([1, 2, 3].map(() => listenUnix(path, () => {})));
    const won = results.filter((result) => result.status === "fulfilled");
    expect(won.length).toBe(1);
    for (const result of won) result.value.close();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("takes a path of 107 bytes and refuses 108", async () => {
    const path = join(dir, "x".repeat(107 - dir.length - 1));
    expect(path.length).toBe(107);
    {
      await using _server = await listenUnix(path, (stream) => stream.close());
      (await connectUnix(path)).close();
    }
    await expect(listenUnix(`${path}x`, () => {})).rejects.toMatchObject({ code: "invalid-argument" });
    await expect(connectUnix(`${path}x`)).rejects.toMatchObject({ code: "invalid-argument" });
  });
});

describe("connectUnix", () => {
  test("tells a missing socket from a dead one", async () => {
    const path = join(dir, "s");
    await expect(connectUnix(path)).rejects.toMatchObject({ code: "not-found", errno: "ENOENT" });
    writeFileSync(path, "");
    await expect(connectUnix(path)).rejects.toMatchObject({ code: "unavailable", errno: "ECONNREFUSED" });
  });

  test("does nothing when already aborted", async () => {
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(connectUnix(join(dir, "s"), { signal })).rejects.toThrow("enough");
  });
});

describe("SocketStream", () => {
  test("carries 64 MiB unchanged with a slow reader", async () => {
    const [left, right] = await pair();
    const sent = createHash("sha256");
    const writing = (async () => {
      for (let i = 0; i < 64; i++) {
        const block = crypto.getRandomValues(new Uint8Array(65536));
        for (let j = 0; j < 16; j++) {
          sent.update(block);
          await left.write(block);
        }
      }
      left.endWrite();
    })();
    const got = createHash("sha256");
    let bytes = 0;
    for await (const chunk of chunks(right)) {
      got.update(chunk);
      bytes += chunk.length;
    }
    await writing;
    expect(bytes).toBe(64 * 1024 * 1024);
    expect(got.digest("hex")).toBe(sent.digest("hex"));
    left.close();
    right.close();
  });

  test("a reader that does not read stops the writer within bounds", async () => {
    const [left, right] = await pair();
    let accepted = 0;
    const writing = (async () => {
      for (;;) {
        await left.write(new Uint8Array(65536));
        accepted += 65536;
      }
    })();
    let before = -1;
    while (accepted !== before) {
      before = accepted;
      await sleep(50);
    }
    expect(accepted).toBeGreaterThan(65536);
    expect(accepted).toBeLessThan(2 * 1024 * 1024);
    expect((await right.read())?.length).toBeGreaterThan(0);
    left.close();
    await expect(writing).rejects.toMatchObject({ code: "unavailable" });
    right.close();
  });

  test("what was sent before the peer closed is still read", async () => {
    const [left, right] = await pair();
    await left.write(Buffer.alloc(100_000, 7));
    left.close();
    expect((await readAll(right)).length).toBe(100_000);
    expect(await right.read()).toBeNull();
    await right.closed;
    await expect(right.write(new Uint8Array(1))).rejects.toMatchObject({ code: "unavailable" });
  });

  test("half-close: the other direction goes on", async () => {
    const [left, right] = await pair();
    left.endWrite();
    expect(await right.read()).toBeNull();
    await right.write(Buffer.from("answer"));
    right.close();
    expect(Buffer.from(await readAll(left)).toString()).toBe("answer");
    await expect(left.write(new Uint8Array(1))).rejects.toThrow();
    left.close();
  });

  test("close rejects a pending read and write and resolves closed", async () => {
    const [left, right] = await pair();
    const read = left.read();
    const write = left.write(new Uint8Array(8 * 1024 * 1024));
    left.close();
    await expect(read).rejects.toMatchObject({ code: "unavailable" });
    await expect(write).rejects.toMatchObject({ code: "unavailable" });
    await left.closed;
    left.close();
    await expect(left.read()).rejects.toMatchObject({ code: "unavailable" });
    expect((await readAll(right).catch(() => new Uint8Array(0))).length).toBeLessThan(8 * 1024 * 1024);
    right.close();
  });

  test("chunks are not overwritten by later ones", async () => {
    const [left, right] = await pair();
    const kept: Uint8Array[] = [];
    for (let i = 0; i < 50; i++) {
      await left.write(new Uint8Array(100).fill(i));
      const chunk = await right.read();
      if (chunk !== null) kept.push(chunk);
    }
    kept.forEach((chunk, i) => {
      expect(chunk.every((byte) => byte === i)).toBe(true);
    });
    left.close();
    right.close();
  });

  test("endWrite sends what is queued first", async () => {
    const [left, right] = await pair();
    void left.write(new Uint8Array(3 * 1024 * 1024));
    left.endWrite();
    expect((await readAll(right)).length).toBe(3 * 1024 * 1024);
    left.close();
    right.close();
  });
});
