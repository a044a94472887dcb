/** Waiting for a paused container to go on, as `exec --ignore-paused` does: what it starts would be suspended at once. */
import { dirname } from "node:path";
import { type ContainerRecord, statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { containerPaths } from "../../paths.ts";
import { FileWatcher } from "../../sys/inotify.ts";
import { processExit } from "../../sys/process-identity.ts";

/** The record once the container is not paused any more: resumed or ended. Fails with not-found when it is deleted. */
export async function whenResumed(root: string, paused: ContainerRecord): Promise<ContainerRecord> {
  const { id, shim } = paused;
  using watcher = new FileWatcher();
  watcher.addDirectory(dirname(containerPaths(root, id).state));
  const ended = processExit(shim);
  for (;;) {
    const record = readContainer(root, id);
    if (statusOf(record) !== "paused") return record;
    await Promise.race([watcher.next(), ended]);
  }
}
