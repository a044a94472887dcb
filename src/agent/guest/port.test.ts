/** The connection over the port, with a device that does what virtio_console does. */
import { describe, expect, test } from "bun:test";
import type { PortDevice } from "../../sys/virtio-port.ts";
import { PortConnection } from "./port.ts";

/** A page at most with each read; nothing is written while nobody is there. */
class FakePort implements PortDevice {
  readonly incoming: number[] = [];
  readonly written: number[] = [];
  hostThere = true;
  /** Bytes that can be written before the host has to read. */
  room = 10;
  readonly #waiting = new Map<"read" | "write", (() => void)[]>();

  read(buffer: Uint8Array): number | "again" | "hang-up" {
    if (this.incoming.length === 0) return this.hostThere ? "again" : "hang-up";
    const page = this.incoming.splice(0, Math.min(4, buffer.length));
    buffer.set(page);
    return page.length;
  }

  write(data: Uint8Array): number | "again" {
    if (!this.hostThere || this.room === 0) return "again";
    const count = Math.min(this.room, data.length);
    this.written.push(...data.subarray(0, count));
    this.room -= count;
    return count;
  }

  isHostThere(): boolean {
    return this.hostThere;
  }

  wait(interest: "read" | "write", signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!this.hostThere) resolve();
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.#waiting.set(interest, [...(this.#waiting.get(interest) ?? []), resolve]);
    });
  }

  wake(interest: "read" | "write"): void {
    for (const resolve of this.#waiting.get(interest) ?? []) resolve();
    this.#waiting.delete(interest);
  }

  hangUp(): void {
    this.hostThere = false;
    this.wake("read");
    this.wake("write");
  }
}

const never = new AbortController().signal;

describe("reading", () => {
  test("joins pages into one chunk, and waits for more", async () => {
    const port = new FakePort();
    port.incoming.push(1, 2, 3, 4, 5, 6);
    const connection = new PortConnection(port, never);
    expect(await connection.read()).toEqual(Uint8Array.of(1, 2, 3, 4, 5, 6));
    const next = connection.read();
    await Promise.resolve();
    port.incoming.push(7);
    port.wake("read");
    expect(await next).toEqual(Uint8Array.of(7));
  });

  test("a hang-up is the end, after what came before it", async () => {
    const port = new FakePort();
    const connection = new PortConnection(port, never);
    port.incoming.push(1);
    port.hostThere = false;
    expect(await connection.read()).toEqual(Uint8Array.of(1));
    expect(await connection.read()).toBeNull();
    expect(connection.hungUp).toBe(true);
  });

  test("begins when the host is there, and not with the hang-up from before", async () => {
    const port = new FakePort();
    port.hostThere = false;
    const { promise: hostThere, resolve } = Promise.withResolvers<void>();
    const connection = new PortConnection(port, never, hostThere);
    const reading = connection.read();
    await Promise.resolve();
    port.hostThere = true;
    port.incoming.push(1);
    resolve();
    expect(await reading).toEqual(Uint8Array.of(1));
  });

  test("closing rejects a waiting read, and leaves the port as it is", async () => {
    const port = new FakePort();
    const connection = new PortConnection(port, never);
    const reading = connection.read();
    connection.close();
    await expect(reading).rejects.toMatchObject({ code: "unavailable" });
    await connection.closed;
    expect(connection.hungUp).toBe(false);
  });
});

describe("writing", () => {
  test("goes on when there is room again, in the order of the calls", async () => {
    const port = new FakePort();
    const connection = new PortConnection(port, never);
    const writes = [connection.write(new Uint8Array(12).fill(1)), connection.write(Uint8Array.of(2))];
    await Bun.sleep(0);
    expect(port.written.length).toBe(10);
    port.room = 100;
    port.wake("write");
    await Promise.all(writes);
    expect(port.written).toEqual([...new Array<number>(12).fill(1), 2]);
  });

  test("a hang-up fails it instead of trying for ever", async () => {
    const port = new FakePort();
    const connection = new PortConnection(port, never);
    const writing = connection.write(new Uint8Array(20));
    await Bun.sleep(0);
    port.hangUp();
    await expect(writing).rejects.toMatchObject({ code: "unavailable" });
    await connection.closed;
    expect(connection.hungUp).toBe(true);
  });
});

test("the end of the service closes the connection", async () => {
  const stop = new AbortController();
  const connection = new PortConnection(new FakePort(), stop.signal);
  const reading = connection.read();
  stop.abort();
  await expect(reading).rejects.toMatchObject({ code: "unavailable" });
});
