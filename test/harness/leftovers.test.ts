import { expect, test } from "bun:test";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";

test("the directory of named network namespaces, made with the first of them, is the system's; a namespace is not", async () => {
  const script = `
    import { addedSince, takeSnapshot } from ${JSON.stringify(join(import.meta.dir, "leftovers.ts"))};
    import { runOrThrow } from ${JSON.stringify(join(import.meta.dir, "../../src/sys/run-process.ts"))};
    const before = takeSnapshot();
    await runOrThrow(["ip", "netns", "add", "one"]);
    console.log(addedSince(before).sort().join("\\n"));
    await runOrThrow(["ip", "netns", "del", "one"]);
    console.log(addedSince(before).length);`;
  // As on a machine that has had no named namespace since it was booted.
  const fresh = 'umount -R /run/netns 2>/dev/null; mount -t tmpfs tmpfs /run && exec "$0" -e "$1"';
  const argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", fresh, process.execPath, script] as const;
  expect(await runOrThrow(argv)).toBe("mount /run/netns/one\nnetwork namespace one\n0\n");
});
