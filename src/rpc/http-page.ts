/** One page over HTTP, on a unix socket or on this host's loopback address, for programs that read it now and then. */
import { toHearthError } from "../errors.ts";
import { HTTP_IDLE_SECONDS } from "../limits.ts";
import { bindUnix } from "../sys/unix-socket.ts";

export interface Page {
  /** Such as "/metrics"; everything else is not found. */
  readonly path: string;
  readonly contentType: string;
  /** Rejects: the answer is status 500, with the reason. */
  readonly text: () => Promise<string>;
}

/** Serves on the socket, 0600, until it is disposed of. Fails as listenUnix does. */
export async function servePageUnix(socketPath: string, page: Page): Promise<AsyncDisposable> {
  return await bindUnix(socketPath, (unix) => Bun.serve({ unix, ...options(page) }));
}

/** Serves on 127.0.0.1 until it is disposed of; port 0: any that is free. Fails with "already-exists" for one in use. */
export function servePageLoopback(port: number, page: Page): AsyncDisposable & { readonly port: number } {
  try {
    const server = Bun.serve({ hostname: "127.0.0.1", port, idleTimeout: HTTP_IDLE_SECONDS, ...options(page) });
    return { port: server.port ?? port, [Symbol.asyncDispose]: () => server.stop(true) };
  } catch (thrown) {
    throw toHearthError(thrown, `listen on 127.0.0.1:${port}`);
  }
}

function options(page: Page) {
  return {
    maxRequestBodySize: 0,
    development: false,
    fetch: (request: Request): Promise<Response> => answer(page, request),
  } as const;
}

async function answer({ path, contentType, text }: Page, request: Request): Promise<Response> {
  if (new URL(request.url).pathname !== path) return new Response("not found\n", { status: 404 });
  if (request.method !== "GET" && request.method !== "HEAD") {
    return new Response("method not allowed\n", { status: 405, headers: { allow: "GET, HEAD" } });
  }
  try {
    return new Response(await text(), { headers: { "content-type": contentType } });
  } catch (thrown) {
    return new Response(`${toHearthError(thrown, `make ${path}`).message}\n`, { status: 500 });
  }
}
