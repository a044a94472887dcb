/** What the host changes in a directory or file that a running container has, the container sees, and the other way round. */
import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { bundleConfig } from "../harness/bundle.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";

const VM_TEST_TIMEOUT_MS = 120_000;
/** The guest may believe what it knows of a file for a second. Source: virtiofsd(1), cache=auto. */
const SEEN_TIMEOUT_S = 10;

interface Running {
  /** Runs a script in the container; returns what it printed. */
  sh(script: string): Promise<string>;
  /** The same until it succeeds, bounded. */
  until(script: string): Promise<string>;
}

/** A container that has `<dir>/volume` at /volume, read-only at /locked, and `<dir>/hosts` at /etc/hosts. */
async function withContainer(hearth: Hearth, body: (running: Running) => Promise<void>): Promise<void> {
  const bind = (source: string, destination: string, ...options: string[]) => {
    return { destination, type: "bind", source: join(hearth.dir, source), options: ["rbind", ...options] };
  };
  const base = bundleConfig({ args: [] });
  const mounts = Array.isArray(base["mounts"]) ? base["mounts"] : [];
  const binds = [bind("volume", "/volume", "rw"), bind("volume", "/locked", "ro"), bind("hosts", "/etc/hosts", "rw")];
  const bundle = await hearth.bundle({
    args: ["sleep", "100000"],
    config: { mounts: [...mounts, ...binds] },
  });
  const started = await hearth.runtime(["run", "--detach", "--bundle", bundle, "c1"], {
    outputPath: join(hearth.dir, "output"),
  });
  expect(started.status).toBe(0);
  const sh = async (script: string): Promise<string> => {
    const { status, stdout, stderr } = await hearth.runtime(["exec", "c1", "sh", "-c", script]);
    expect({ script, status, stderr }).toEqual({ script, status: 0, stderr: "" });
    return stdout.trimEnd();
  };
  try {
    await body({
      sh,
      until: (script) =>
        sh(`end=$(($(date +%s) + ${SEEN_TIMEOUT_S})); until ${script}; do [ $(date +%s) -lt $end ] || exit 1; done`),
    });
  } finally {
    await hearth.runtime(["delete", "--force", "c1"]);
  }
}

describe.each(["virtio-fs", "virtio-9p"] as const)("over %s", (sharedFs) => {
  test(
    "directories, single files, links that are swapped, and a read-only view",
    async () => {
      await withHearth({ config: { hypervisor: { shared_fs: sharedFs } } }, async (hearth) => {
        const volume = join(hearth.dir, "volume");
        const hosts = join(hearth.dir, "hosts");
        mkdirSync(volume);
        writeFileSync(join(volume, "kept"), "old");
        writeFileSync(hosts, "127.0.0.1 before\n");
        // As kubelet lays out a secret: names lead through a link that is replaced as a whole.
        for (const version of ["v1", "v2"]) {
          mkdirSync(join(volume, version));
          writeFileSync(join(volume, version, "token"), version);
        }
        symlinkSync("v1", join(volume, "..data"));
        symlinkSync("..data/token", join(volume, "token"));

        await withContainer(hearth, async ({ sh, until }) => {
          expect(await sh("cat /volume/kept /volume/token /locked/token; cat /etc/hosts")).toBe(
            "oldv1v1127.0.0.1 before",
          );

          writeFileSync(join(volume, "made"), "by the host");
          await until('[ "$(cat /volume/made 2>/dev/null)" = "by the host" ]');
          writeFileSync(join(volume, "kept"), "new and longer");
          await until('[ "$(cat /volume/kept)" = "new and longer" ]');
          renameSync(join(volume, "made"), join(volume, "moved"));
          await until("[ ! -e /volume/made ] && [ -e /volume/moved ]");
          rmSync(join(volume, "moved"));
          await until("[ ! -e /volume/moved ]");

          symlinkSync("v2", join(volume, "..new"));
          renameSync(join(volume, "..new"), join(volume, "..data"));
          await until('[ "$(cat /volume/token)" = v2 ] && [ "$(cat /locked/token)" = v2 ]');

          appendFileSync(hosts, "10.0.0.9 later\n");
          await until("grep -q later /etc/hosts");
          await sh("echo 10.0.0.7 container >>/etc/hosts");
          expect(readFileSync(hosts, "utf8")).toBe("127.0.0.1 before\n10.0.0.9 later\n10.0.0.7 container\n");

          await sh("mkdir /volume/d && echo inside >/volume/d/f && chmod 640 /volume/d/f && ln -s f /volume/d/l");
          expect(readFileSync(join(volume, "d/l"), "utf8")).toBe("inside\n");
          expect(statSync(join(volume, "d/f")).mode & 0o777).toBe(0o640);
          expect(await sh("echo no 2>&1 >/locked/d/f || echo refused")).toContain("refused");
          await sh("rm -r /volume/d");
          expect(() => statSync(join(volume, "d"))).toThrow("ENOENT");
        });
        expect(readFileSync(join(volume, "kept"), "utf8")).toBe("new and longer");
      });
    },
    VM_TEST_TIMEOUT_MS,
  );
});
