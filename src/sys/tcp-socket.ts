/** TCP over IPv4: connections that are born in the calling thread's network namespace, and listening. */
import { toHearthError } from "../errors.ts";
import type { DeadlineOptions } from "../util/wait.ts";
import type { ByteStream } from "./byte-stream.ts";
import { connectError, connected } from "./connecting.ts";
import { asFd, OwnedFd } from "./fd.ts";
import { AF_INET, encodeIpv4 } from "./ipv4.ts";
import { check, lastErrno, lazyLibc } from "./libc.ts";
import { acceptHandlers, adoptSocket, type SocketStream } from "./socket-stream.ts";

const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
});

/**
 * A stream to the server there; the connection is begun before this returns, in the namespace that the thread is in then.
 * "unavailable" when nobody listens, DeadlineError after `timeoutMs`.
 */
export async function connectTcp(address: string, port: number, options: DeadlineOptions = {}): Promise<ByteStream> {
  const name = `${address}:${port}`;
  const kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  const socket = new OwnedFd(asFd(check(libc().socket(AF_INET, kind, 0), "open TCP socket")));
  try {
    const bytes = encodeIpv4(address, port);
    if (libc().connect(socket.fd, bytes, bytes.length) < 0) {
      const errno = lastErrno();
      if (errno !== "EINPROGRESS") throw connectError(errno, name);
      await connected(socket.fd, name, options);
    }
    return await adoptSocket(socket, name);
  } catch (thrown) {
    socket.close();
    throw thrown;
  }
}

/** Calls `onConnection` with each new stream, which it then owns, until this is disposed of. */
export function listenTcp(address: string, port: number, onConnection: (stream: ByteStream) => void): Disposable {
  try {
    const socket = acceptHandlers(`connection on ${address}:${port}`, onConnection);
    const server = Bun.listen<SocketStream>({ hostname: address, port, allowHalfOpen: true, socket });
    return { [Symbol.dispose]: () => server.stop(false) };
  } catch (thrown) {
    throw toHearthError(thrown, `listen on ${address}:${port}`);
  }
}
