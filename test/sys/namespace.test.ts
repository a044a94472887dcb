/** Joining mount namespaces while the runtime starts threads of its own, as it may at any time. */
import { expect, test } from "bun:test";
import { join } from "node:path";

const NAMESPACE = JSON.stringify(join(import.meta.dir, "../../src/sys/namespace.ts"));
/** A worker is a thread that the calling one starts; it shares that one's root and working directory. */
const START_THREAD = `new Worker("data:text/javascript,setTimeout(() => {}, 1000)")`;

test.each([
  ["inPrivateMounts", "namespaces.inPrivateMounts(step)"],
  ["inMountNamespace", 'namespaces.inMountNamespace("/proc/self/ns/mnt", step)'],
])("%s comes back whatever threads the step has started", async (_, call) => {
  const script = `
    import * as namespaces from ${NAMESPACE};
    const before = namespaces.namespaceName("/proc/thread-self/ns/mnt");
    const step = () => { ${START_THREAD}; return "stepped"; };
    const result = ${call};
    console.log(result, namespaces.namespaceName("/proc/thread-self/ns/mnt") === before);
    process.exit(0);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  expect({ status: await child.exited, stdout, stderr }).toEqual({ status: 0, stdout: "stepped true\n", stderr: "" });
});
