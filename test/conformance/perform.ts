/** Performs a case on one runtime and tells what was not as it must be. */
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { bundleConfig } from "../harness/bundle.ts";
import { makeRootfs } from "../harness/busybox.ts";
import { PATH } from "../harness/program.ts";
import type { Case, CommandStep, Step, UntilStep } from "./case.ts";

/** A runtime that cases are performed on. */
export interface Subject {
  readonly name: string;
  /** Program and global flags. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Changes a case's configuration, as an engine would for this runtime. */
  readonly adapt: (config: Record<string, unknown>, given: Case) => Record<string, unknown>;
}

/** A command that takes longer hangs. */
const COMMAND_TIMEOUT_MS = 60_000;

/** No JavaScript number is this one. Source: getrlimit(2), 2^64-1. */
const RLIM_INFINITY = "18446744073709551615";

/** Numbers of the first block device of this host. Source: proc(5), /proc/partitions. */
function firstDisk(): string[] {
  const [, , line = ""] = readFileSync("/proc/partitions", "utf8").split("\n");
  return line.trim().split(/\s+/).slice(0, 2);
}

interface Place {
  readonly subject: Subject;
  readonly dir: string;
  readonly id: string;
}

/** Performs the steps in order in `dir`, which must be new, and stops at the first that went wrong: what, in words. */
export async function perform(given: Case, subject: Subject, dir: string, id: string): Promise<string | undefined> {
  const place: Place = { subject, dir, id };
  try {
    await layOut(given, place);
    for (const [index, step] of given.steps.entries()) {
      const wrong = await take(step, place);
      if (wrong !== undefined) return `step ${index + 1}, ${JSON.stringify(step)}: ${wrong}`;
    }
    return undefined;
  } finally {
    await command(place, { run: ["delete", "--force", "$ID"] });
  }
}

async function layOut(given: Case, place: Place): Promise<void> {
  const { dir, subject } = place;
  await makeRootfs(join(dir, "rootfs"));
  for (const path of given.removed ?? []) rmSync(join(dir, path), { recursive: true });
  for (const path of given.directories ?? []) mkdirSync(join(dir, path), { recursive: true });
  for (const [path, content] of Object.entries(given.files ?? {})) {
    const file = join(dir, path);
    mkdirSync(dirname(file), { recursive: true });
    const isText = typeof content === "string";
    writeFileSync(file, isText ? fill(content, place) : content);
    if (!isText || content.startsWith("#!")) chmodSync(file, 0o755);
  }
  for (const [path, target] of Object.entries(given.links ?? {})) symlinkSync(target, join(dir, path));
  const config = bundleConfig({ args: given.args ?? ["/bin/sleep", "1000"], config: given.config ?? {} });
  const text = given.configText ?? JSON.stringify(subject.adapt(config, given));
  writeFileSync(join(dir, "config.json"), fill(text, place));
}

function fill(text: string, { dir, id }: Place): string {
  const [major = "", minor = ""] = firstDisk();
  return text
    .replaceAll('"$INFINITY"', RLIM_INFINITY)
    .replaceAll('"$MAJOR"', major)
    .replaceAll('"$MINOR"', minor)
    .replaceAll("$DISK", `${major}:${minor}`)
    .replaceAll("$DIR", dir)
    .replaceAll("$BUNDLE", dir)
    .replaceAll("$ID", id);
}

async function take(step: Step, place: Place): Promise<string | undefined> {
  if ("run" in step) return await runCommand(step, place);
  if ("until" in step) return await waitUntil(step, place);
  if ("write" in step) {
    writeFileSync(fill(step.write, place), fill(step.text, place));
    return undefined;
  }
  const path = fill(step.file, place);
  const found = existsSync(path) ? readFileSync(path, "utf8").trimEnd() : null;
  if (step.holds === null || found === null) {
    return found === step.holds ? undefined : `${path} is ${found === null ? "missing" : "there"}`;
  }
  return matches(found, filled(step.holds, place)) ? undefined : `${path} holds ${JSON.stringify(found)}`;
}

function filled(expected: string | RegExp, place: Place): string | RegExp {
  return typeof expected === "string" ? fill(expected, place) : expected;
}

function matches(found: string, expected: string | RegExp): boolean {
  return typeof expected === "string" ? found === expected : expected.test(found);
}

async function runCommand(step: CommandStep, place: Place): Promise<string | undefined> {
  const { status, stdout, stderr } = await command(place, step);
  const said = `status ${status}, stdout ${JSON.stringify(stdout)}, stderr ${JSON.stringify(stderr)}`;
  const expected = step.status ?? 0;
  if (expected === "fails" ? status === 0 : status !== expected) return said;
  if (step.stdout !== undefined && !matches(stdout.trimEnd(), filled(step.stdout, place))) return said;
  if (step.stderr !== undefined && !step.stderr.test(stderr)) return said;
  if (step.json === undefined) return undefined;
  const json: unknown = JSON.parse(stdout);
  const wanted: unknown = JSON.parse(fill(JSON.stringify(step.json), place));
  return holds(json, wanted) ? undefined : said;
}

/** True when every member of `wanted` is in `found`; lists must be as long. */
function holds(found: unknown, wanted: unknown): boolean {
  if (Array.isArray(wanted)) {
    return (
      Array.isArray(found) &&
      found.length === wanted.length &&
      wanted.every((item: unknown, index) => holds(found[index], item))
    );
  }
  if (typeof wanted !== "object" || wanted === null) return found === wanted;
  if (typeof found !== "object" || found === null) return false;
  const members = new Map<string, unknown>(Object.entries(found));
  return Object.entries(wanted).every(([name, value]) => holds(members.get(name), value));
}

async function waitUntil({ until }: UntilStep, place: Place): Promise<string | undefined> {
  const deadline = performance.now() + COMMAND_TIMEOUT_MS;
  for (let last = ""; ; ) {
    const { status, stdout, stderr } = await command(place, { run: ["state", "$ID"] });
    if (status !== 0) return `state: ${stderr}`;
    const state: unknown = JSON.parse(stdout);
    if (holds(state, { status: until })) return undefined;
    last = stdout;
    if (performance.now() > deadline) return `still ${last}`;
  }
}

interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Outputs go to files: what a container inherits from `create` stays open as long as it runs. */
async function command(place: Place, step: CommandStep): Promise<Output> {
  const { subject, dir } = place;
  const [out, err] = [join(dir, "stdout"), join(dir, "stderr")];
  const [outFd, errFd] = [openSync(out, "w"), openSync(err, "w")];
  const argv = [...subject.argv, ...step.run.map((arg) => fill(arg, place))];
  const { redirect } = step;
  const redirected = redirect && ["bash", "-c", `exec "$@" ${fill(redirect, place)}`, "bash", ...argv];
  const child = Bun.spawn(redirected || argv, {
    env: { PATH, ...subject.env },
    cwd: dir,
    stdin: step.stdin === undefined ? "ignore" : Buffer.from(fill(step.stdin, place)),
    stdout: outFd,
    stderr: errFd,
  });
  for (const fd of [outFd, errFd]) closeSync(fd);
  const timer = setTimeout(() => child.kill("SIGKILL"), step.timeoutMs ?? COMMAND_TIMEOUT_MS);
  const status = await child.exited;
  clearTimeout(timer);
  return { status, stdout: readFileSync(out, "utf8"), stderr: readFileSync(err, "utf8") };
}
