/** Saving a paused VM to a file and continuing one from it, by QEMU's migration. */
import { unlinkSync } from "node:fs";
import { DeadlineError, HearthError } from "../../errors.ts";
import {
  MIGRATION_BANDWIDTH,
  MIGRATION_FINALIZED_POLL_MS,
  MIGRATION_TIMEOUT_MS,
  QMP_CALL_TIMEOUT_MS,
} from "../../limits.ts";
import { O_CREAT, O_NOFOLLOW, O_RDONLY, O_TRUNC, O_WRONLY, openFd } from "../../sys/fd.ts";
import { sleep } from "../../util/wait.ts";
import type { SaveOptions } from "../interface.ts";
import { peripherals } from "./hotplug.ts";
import type { QmpClient } from "./qmp/client.ts";

/** Name under which QEMU keeps the descriptor of the file; `file:` as a target came with version 8.2 only. */
const STATE_FD = "migration-state";

/** Writes the state of the paused VM; a file that cannot be completed is removed. The VM can be continued afterwards. */
export async function saveVm(qmp: QmpClient, options: SaveOptions, signal?: AbortSignal): Promise<void> {
  const { running } = await qmp.run("query-status", {}, { signal });
  if (running) throw new HearthError("failed-precondition", "save VM: it is not paused");
  if (!options.ignoreShared && [...(await peripherals(qmp, signal)).values()].includes("virtio-pmem-pci")) {
    throw new HearthError("failed-precondition", "save VM with its memory: its image is read-only persistent memory", {
      hint: "boot it with the image as virtio-blk",
    });
  }
  {
    using file = openFd(options.statePath, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      await prepare(qmp, options, signal);
      await qmp.run("getfd", { fdname: STATE_FD }, { signal, fds: [file.fd] });
      await finish(qmp, "save VM", () => qmp.run("migrate", { uri: `fd:${STATE_FD}` }, { signal }), signal);
      await finalized(qmp, signal);
      return;
    } catch (thrown) {
      await qmp.run("migrate_cancel", {}).catch(() => undefined);
      unlinkSync(options.statePath);
      throw thrown;
    }
  }
}

/** Loads the state into a QEMU started with `-incoming defer`; the VM is paused then. */
export async function restoreVm(qmp: QmpClient, options: SaveOptions, signal?: AbortSignal): Promise<void> {
  using file = openFd(options.statePath, O_RDONLY);
  await Promise.all([
    prepare(qmp, options, signal),
    qmp.run("getfd", { fdname: STATE_FD }, { signal, fds: [file.fd] }),
  ]);
  await finish(qmp, "restore VM", () => qmp.run("migrate-incoming", { uri: `fd:${STATE_FD}` }, { signal }), signal);
}

async function prepare(qmp: QmpClient, options: SaveOptions, signal: AbortSignal | undefined): Promise<void> {
  const capabilities = [
    { capability: "x-ignore-shared", state: options.ignoreShared },
    { capability: "events", state: true },
  ];
  await Promise.all([
    qmp.run("migrate-set-capabilities", { capabilities }, { signal }),
    qmp.run("migrate-set-parameters", { "max-bandwidth": MIGRATION_BANDWIDTH }, { signal }),
  ]);
}

/**
 * QEMU announces "completed" shortly before it leaves the state "finish-migrate", in which it refuses to continue the
 * VM, and has no event for that: asked for until then.
 */
async function finalized(qmp: QmpClient, signal: AbortSignal | undefined): Promise<void> {
  const deadline = performance.now() + QMP_CALL_TIMEOUT_MS;
  for (;;) {
    const { status } = await qmp.run("query-status", {}, { signal });
    if (status !== "finish-migrate") return;
    if (performance.now() > deadline) throw new DeadlineError("save VM: finish migration", QMP_CALL_TIMEOUT_MS);
    await sleep(MIGRATION_FINALIZED_POLL_MS, signal);
  }
}

const END_STATES: ReadonlySet<string> = new Set(["completed", "failed", "cancelled"]);

async function finish(
  qmp: QmpClient,
  step: string,
  start: () => Promise<unknown>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const limits = { signal, timeoutMs: MIGRATION_TIMEOUT_MS };
  using done = qmp.awaitEvent("MIGRATION", ({ status }) => END_STATES.has(status), limits);
  await start();
  const { status } = await done.received;
  if (status === "completed") return;
  const { "error-desc": reason = status } = await qmp.run("query-migrate", {}, { signal });
  throw new HearthError("internal", `${step}: ${reason}`);
}
