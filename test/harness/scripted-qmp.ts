/** A QMP server in memory that says what the test tells it to: for what a real QEMU does seldom or never. */
import { QmpClient } from "../../src/hypervisor/qemu/qmp/client.ts";
import { QmpConnection } from "../../src/hypervisor/qemu/qmp/connection.ts";
import type { FdPassingStream } from "../../src/sys/fd-passing-stream.ts";
import { type MemoryStream, streamPair } from "./stream-pair.ts";

export const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 }, package: "" }, capabilities: [] } };

export interface QmpServer {
  readonly stream: MemoryStream;
  send(message: unknown): void;
  sendBytes(bytes: Uint8Array): void;
  /** The next command that arrives. */
  command(): Promise<{ execute: string; arguments: unknown; id: number }>;
}

/** The servers and clients of one test; `close` after it. */
export class ScriptedQmp {
  readonly #opened: AsyncDisposable[] = [];

  /** A client's stream and the server at its other end, before any greeting. */
  pair(chunkBytes = 64 * 1024): readonly [FdPassingStream, QmpServer] {
    const [client, server] = streamPair(chunkBytes);
    this.#opened.push(client, server);
    const passing: FdPassingStream = Object.assign(client, {
      writeWithFds: (data: Uint8Array) => client.write(data),
    });
    return [passing, serverOn(server)];
  }

  /** A client that is through the greeting and the negotiation, and its server. */
  async connected(chunkBytes?: number): Promise<readonly [QmpClient, QmpServer]> {
    const [stream, server] = this.pair(chunkBytes);
    const opening = QmpConnection.open(stream);
    server.send(GREETING);
    const { execute, id } = await server.command();
    if (execute !== "qmp_capabilities") throw new Error(`expected qmp_capabilities, got ${execute}`);
    server.send({ return: {}, id });
    return [new QmpClient(await opening), server];
  }

  async close(): Promise<void> {
    for (const resource of this.#opened.splice(0)) await resource[Symbol.asyncDispose]();
  }
}

function serverOn(stream: MemoryStream): QmpServer {
  let buffered = "";
  const sendBytes = (bytes: Uint8Array): void => {
    stream.write(bytes).catch(() => undefined);
  };
  return {
    stream,
    sendBytes,
    send: (message) => sendBytes(new TextEncoder().encode(`${JSON.stringify(message)}\r\n`)),
    async command() {
      while (!buffered.includes("\n")) {
        const chunk = await stream.read();
        if (chunk === null) throw new Error("client closed");
        buffered += new TextDecoder().decode(chunk);
      }
      const end = buffered.indexOf("\n");
      const line = buffered.slice(0, end);
      buffered = buffered.slice(end + 1);
      return JSON.parse(line);
    },
  };
}
