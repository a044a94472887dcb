/** CreateSandbox: kernel modules, storages, host name and name servers of the guest. */
import { writeFileSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import type { CreateSandboxRequest } from "../../gen/agent_pb.ts";
import { AGENT_CALL_TIMEOUT_MS } from "../../limits.ts";
import { setHostName } from "../../sys/host-name.ts";
import { runOrThrow } from "../../sys/run-process.ts";
import type { StorageLease, StorageMounts } from "./storage.ts";

/** Source: sethostname(2), __NEW_UTS_LEN. */
const HOSTNAME_BYTES_MAX = 64;
const RESOLV_CONF = "/etc/resolv.conf";

export async function openSandbox(
  request: CreateSandboxRequest,
  storages: StorageMounts,
  signal: AbortSignal,
): Promise<StorageLease> {
  if (request.guestHookPath !== "") {
    throw new HearthError("unimplemented", `create sandbox: guest hooks (${request.guestHookPath}) are not supported`);
  }
  for (const { name, parameters } of request.kernelModules) {
    await runOrThrow(["modprobe", name, ...parameters], { timeoutMs: AGENT_CALL_TIMEOUT_MS, signal });
  }
  if (request.hostname !== "") nameGuest(request.hostname);
  const lease = await storages.acquire(request.storages, signal);
  try {
    if (request.dns.length > 0) setNameServers(request.dns);
    return lease;
  } catch (thrown) {
    lease.release();
    throw thrown;
  }
}

function nameGuest(hostname: string): void {
  if (Buffer.byteLength(hostname) > HOSTNAME_BYTES_MAX || /[\0\n]/.test(hostname)) {
    throw new HearthError("invalid-argument", `set host name: ${JSON.stringify(hostname.slice(0, 80))}`);
  }
  setHostName(hostname);
}

/** The image's resolv.conf is a link to where files can be written. */
function setNameServers(lines: readonly string[]): void {
  try {
    writeFileSync(RESOLV_CONF, `${lines.map((line) => (/\s/.test(line) ? line : `nameserver ${line}`)).join("\n")}\n`);
  } catch (thrown) {
    throw toHearthError(thrown, `write ${RESOLV_CONF}`);
  }
}
