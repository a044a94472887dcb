/** The agent's vsock port: for the host's root alone, one client after the other. */
import type { Log } from "../../log.ts";
import { serveTtrpc } from "../../rpc/ttrpc/server.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import type { OwnedFd } from "../../sys/fd.ts";
import { adoptSocket } from "../../sys/socket-stream.ts";
import { VirtioPort } from "../../sys/virtio-port.ts";
import { CID_HOST, RESERVED_PORT_MAX, type VsockAddress, type VsockListener } from "../../sys/vsock.ts";

type Services = Parameters<typeof serveTtrpc>[1];

/** Neither from this guest or another one, nor from just any user of the host: those cannot have a reserved port. */
export function isTrusted(peer: VsockAddress): boolean {
  return peer.cid === CID_HOST && peer.port <= RESERVED_PORT_MAX;
}

/**
 * Serves until `signal` aborts. A new client takes the place of the one before: the host has one, whose predecessor died.
 * Nothing is sent over the virtio-serial port at `portPath`. Opening it tells the host that the agent listens, opening it
 * again that the agent has noticed the end of a connection.
 */
export async function serveVsock(
  listener: VsockListener,
  portPath: string,
  services: Services,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  let port = new VirtioPort(portPath);
  let current: ByteStream | undefined;
  try {
    for (let connectionId = 1; ; connectionId++) {
      const socket = await acceptTrusted(listener, log, signal);
      current?.close();
      const stream = await adoptSocket(socket, "agent connection");
      current = stream;
      log.debug("host connected", { connectionId });
      serveTtrpc(stream, services, { log, connectionId });
      void stream.closed.then(() => {
        log.debug("host disconnected", { connectionId });
        if (signal.aborted) return;
        port[Symbol.dispose]();
        port = new VirtioPort(portPath);
      });
    }
  } finally {
    current?.close();
    port[Symbol.dispose]();
  }
}

async function acceptTrusted(listener: VsockListener, log: Log, signal: AbortSignal): Promise<OwnedFd> {
  for (;;) {
    const { socket, peer } = await listener.accept(signal);
    if (isTrusted(peer)) return socket;
    log.warn("vsock connection refused", { cid: peer.cid, port: peer.port });
    socket.close();
  }
}
