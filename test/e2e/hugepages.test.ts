/** Huge pages: set aside in the guest for the containers that have limits of them, and given back; volumes that a pod shares. */
import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { unmount } from "../../src/sys/mount.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";

const TIMEOUT_MS = 180_000;
const ID = `hugepages-${process.pid}`;
const MIB = 1024 * 1024;

const { mounts: standardMounts } = bundleConfig({ args: [] });
const withMount = (mount: object): unknown[] => [...(Array.isArray(standardMounts) ? standardMounts : []), mount];
const { linux: standardLinux } = bundleConfig({ args: [] });
const limitedTo = (mib: number): object => ({
  ...Object(standardLinux),
  resources: { hugepageLimits: [{ pageSize: "2MB", limit: mib * MIB }] },
});
/** Total and free. */
const PAGES = "awk '/^HugePages_(Total|Free)/ {print $2}' /proc/meminfo";

async function start(hearth: Hearth, id: string, config: Record<string, unknown>): Promise<void> {
  const bundle = await hearth.bundle({ args: ["sleep", "100000"], config });
  const outputPath = join(bundle, "output");
  const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], { outputPath });
  if (status !== 0) throw new Error(await Bun.file(outputPath).text());
}

async function sh(hearth: Hearth, id: string, script: string): Promise<string> {
  return (await hearth.runtime(["exec", id, "sh", "-c", script])).stdout.trimEnd().replaceAll("\n", " ");
}

test(
  "a limit and a mount: as many pages as the limit, no more, and a mount's size where there is no limit",
  async () => {
    await withHearth({}, async (hearth) => {
      const mount = { destination: "/huge", type: "hugetlbfs", source: "hugetlbfs", options: ["pagesize=2M"] };
      await start(hearth, ID, { linux: limitedTo(8), mounts: withMount(mount) });
      expect(await sh(hearth, ID, PAGES)).toBe("4 4");
      expect(await sh(hearth, ID, `fallocate -l ${8 * MIB} /huge/all && ${PAGES}`)).toBe("4 0");
      expect(await sh(hearth, ID, `fallocate -l ${2 * MIB} /huge/more 2>/dev/null || echo no more`)).toBe("no more");
      await hearth.runtime(["delete", "--force", ID]);

      const sized = { ...mount, options: ["pagesize=2M", "size=6M", "mode=1770"] };
      await start(hearth, ID, { mounts: withMount(sized) });
      const look = "df -m /huge | tail -1 | awk '{print $2}'; stat -c %a /huge";
      expect(await sh(hearth, ID, `${PAGES}; ${look}`)).toBe("3 3 6 1770");
      await hearth.runtime(["delete", "--force", ID]);
    });
  },
  TIMEOUT_MS,
);

test(
  "a pod's volume in huge pages is its containers' together, and goes back with them",
  async () => {
    await withHearth({}, async (hearth) => {
      const volume = join(hearth.dir, "kubernetes.io~empty-dir", "huge");
      mkdirSync(volume, { recursive: true });
      await runOrThrow(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "hugetlbfs", volume]);
      try {
        const annotations = (type: string): Record<string, string> => ({
          "io.kubernetes.cri.container-type": type,
          "io.kubernetes.cri.sandbox-id": ID,
        });
        const bind = { destination: "/huge", type: "bind", source: volume, options: ["rbind", "rw"] };
        await start(hearth, ID, { annotations: annotations("sandbox") });
        for (const [name, mib] of [
          ["one", 4],
          ["two", 6],
        ] as const) {
          const config = { annotations: annotations("container"), linux: limitedTo(mib), mounts: withMount(bind) };
          await start(hearth, `${ID}-${name}`, config);
        }
        expect(await sh(hearth, `${ID}-one`, `${PAGES}; fallocate -l ${4 * MIB} /huge/file`)).toBe("5 5");
        expect(await sh(hearth, `${ID}-two`, `stat -c %s /huge/file; ${PAGES}`)).toBe(`${4 * MIB} 5 3`);
        await hearth.runtime(["delete", "--force", `${ID}-two`]);
        expect(await sh(hearth, `${ID}-one`, `rm /huge/file; ${PAGES}`)).toBe("2 2");
        for (const id of [`${ID}-one`, ID]) await hearth.runtime(["delete", "--force", id]);
      } finally {
        unmount(volume);
      }
    });
  },
  TIMEOUT_MS,
);
