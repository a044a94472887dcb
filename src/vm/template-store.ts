/** Saved VMs on the host, one directory for each identity: looking for one that fits, listing, publishing and removing them. */
import { createHash } from "node:crypto";
import { type BigIntStats, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { HearthError, isNotFound, toHearthError } from "../errors.ts";
import { TEMPLATE_STATE_BYTES_MAX } from "../limits.ts";
import { type TemplatePaths, templatePaths } from "../paths.ts";
import { readJson, writeJsonAtomic } from "../sys/atomic-file.ts";
import { removeTreeWithoutMounts } from "../sys/mount.ts";
import { identityDigest, type VmConfig } from "./vm-config.ts";

/** A saved VM. Paths are absolute. */
export interface TemplateFiles {
  /** "copy-on-write": clones map the memory privately. "copied": each gets a copy, which virtiofsd can share. */
  readonly kind: TemplateKind;
  readonly memory: string;
  readonly state: string;
}
export type TemplateKind = "copy-on-write" | "copied";

/** Memory that virtiofsd must see cannot be private to QEMU. */
export function templateKind(config: Pick<VmConfig, "sharedFs">): TemplateKind {
  return config.sharedFs === "virtio-fs" ? "copied" : "copy-on-write";
}

/** "missing": never made, or lost with a reboot. "outdated": made before an upgrade. "broken": not what was saved. */
export type TemplateProblem = "missing" | "outdated" | "broken";

/** There is no template that a clone of this configuration can be made of. */
export class TemplateError extends HearthError {
  override readonly name = "TemplateError";
  readonly problem: TemplateProblem;

  constructor(problem: TemplateProblem, message: string, options: { readonly cause?: unknown } = {}) {
    super(problem === "missing" ? "not-found" : "failed-precondition", message, {
      ...options,
      hint: "make one with: hearth template init",
    });
    this.problem = problem;
  }
}

export const TEMPLATE_RECORD_VERSION = 1;

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const digest = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));

const TemplateRecordSchema = v.looseObject({
  version: v.literal(TEMPLATE_RECORD_VERSION),
  /** Hex digest of the VM's identity; the directory's name. */
  identity: digest,
  kind: v.picklist(["copy-on-write", "copied"]),
  guestDigest: v.string(),
  hearthVersion: v.string(),
  /** Of QEMU and virtiofsd as they were on disk; see VmConfig. */
  programsDigest: v.string(),
  /** For people. */
  qemuVersion: v.string(),
  vcpus: count,
  /** MiB. */
  memoryMib: count,
  /** Milliseconds since the epoch. */
  createdAtMs: v.number(),
  memory: v.object({ bytes: count, stamp: v.string() }),
  state: v.object({ bytes: count, digest }),
});
export type TemplateRecord = v.InferOutput<typeof TemplateRecordSchema>;

const FaultSchema = v.object({
  atMs: v.number(),
  reason: v.string(),
  /** Of the template that is at fault: another may have taken its place since. */
  createdAtMs: v.number(),
});

/** Names of half-made and half-removed templates; whoever holds the lock removes them. */
const HALF_PREFIX = ".half-";

export interface FoundTemplate {
  readonly files: TemplateFiles;
  /** Milliseconds since the epoch; tells it from another that takes its place. */
  readonly createdAtMs: number;
}

/** The template for VMs of this configuration. Fails with TemplateError when there is none that can be used. */
export function findTemplate(templateDir: string, config: VmConfig): FoundTemplate {
  const paths = templatePaths(join(templateDir, identityDigest(config)));
  const record = readRecord(paths);
  if (record === undefined) throw noTemplate(templateDir, config);
  const damage = findDamage(paths, record);
  if (damage !== undefined) throw new TemplateError("broken", `use template ${shortened(record.identity)}: ${damage}`);
  const files = { kind: record.kind, memory: paths.memory, state: paths.state };
  return { files, createdAtMs: record.createdAtMs };
}

/** One of that size that was made before an upgrade says more than that there is none. */
function noTemplate(templateDir: string, config: VmConfig): TemplateError {
  for (const { identity, state, reason, record } of listTemplates(templateDir, config)) {
    if (state !== "outdated" || record?.vcpus !== config.vcpus || record.memoryMib !== config.memoryMib) continue;
    return new TemplateError("outdated", `use template ${shortened(identity)}: ${reason}`);
  }
  return new TemplateError("missing", `find template in ${templateDir}: there is none for this configuration`);
}

function shortened(identity: string): string {
  return identity.slice(0, 12);
}

/** A template as an operator sees it. */
export interface TemplateStatus {
  /** Hex digest of the identity; empty for what an interrupted init or destroy left. */
  readonly identity: string;
  readonly dir: string;
  readonly state: "ready" | "outdated" | "broken" | "interrupted";
  /** Why it is not ready. */
  readonly reason: string;
  /** Undefined when it cannot be read. */
  readonly record: TemplateRecord | undefined;
  /** Bytes of memory that its files take. */
  readonly allocatedBytes: number;
}

/** All there are, whole or not, by name. With `config`, those that no VM of its hearth, guest and QEMU can be are "outdated". */
export function listTemplates(templateDir: string, config?: VmConfig): TemplateStatus[] {
  return entriesOf(templateDir).map((name) => {
    const paths = templatePaths(join(templateDir, name));
    const found = { dir: paths.dir, allocatedBytes: allocatedBytes(paths) };
    if (name.startsWith(HALF_PREFIX)) {
      return { ...found, identity: "", state: "interrupted", reason: "init or destroy did not end", record: undefined };
    }
    try {
      const record = readRecord(paths);
      if (record === undefined) return { ...found, identity: name, state: "broken", reason: "no record", record };
      const upgraded = config === undefined ? undefined : findUpgrade(record, config);
      if (upgraded !== undefined) return { ...found, identity: name, state: "outdated", reason: upgraded, record };
      const damage = findDamage(paths, record);
      return {
        ...found,
        identity: name,
        state: damage === undefined ? "ready" : "broken",
        reason: damage ?? "",
        record,
      };
    } catch (thrown) {
      const { message } = toHearthError(thrown, "read template");
      return { ...found, identity: name, state: "broken", reason: message, record: undefined };
    }
  });
}

/** A new directory to make a template in; publish it, or leave it to `removeHalves`. The lock is held. */
export function makeHalf(templateDir: string): TemplatePaths {
  const dir = join(templateDir, `${HALF_PREFIX}${crypto.randomUUID()}`);
  mkdirSync(dir, { mode: 0o700 });
  return templatePaths(dir);
}

/** Makes the finished files the template of the configuration, in the place of any before it. The lock is held. */
export function publishTemplate(
  templateDir: string,
  half: TemplatePaths,
  config: VmConfig,
  qemuVersion: string,
): TemplateRecord {
  const identity = identityDigest(config);
  const memory = statSync(half.memory, { bigint: true });
  const state = readState(half.state);
  const record: TemplateRecord = {
    version: TEMPLATE_RECORD_VERSION,
    identity,
    kind: templateKind(config),
    guestDigest: config.guestDigest,
    hearthVersion: config.hearthVersion,
    programsDigest: config.programsDigest,
    qemuVersion,
    vcpus: config.vcpus,
    memoryMib: config.memoryMib,
    createdAtMs: Date.now(),
    memory: { bytes: Number(memory.size), stamp: stampOf(memory) },
    state: { bytes: state.length, digest: digestOf(state) },
  };
  writeJsonAtomic(half.record, record);
  removeTemplate(templateDir, identity);
  renameSync(half.dir, join(templateDir, identity));
  return record;
}

/** Absent is fine. Clones that live keep their files. The lock is held. */
export function removeTemplate(templateDir: string, name: string): void {
  const half = join(templateDir, `${HALF_PREFIX}${crypto.randomUUID()}`);
  try {
    renameSync(join(templateDir, name), half);
  } catch (thrown) {
    if (isNotFound(thrown)) return;
    throw toHearthError(thrown, `remove template ${name}`);
  }
  removeTreeWithoutMounts(half);
}

/** What an init or destroy that was killed left behind. The lock is held; returns how many there were. */
export function removeHalves(templateDir: string): number {
  const halves = entriesOf(templateDir).filter((name) => name.startsWith(HALF_PREFIX));
  for (const name of halves) removeTreeWithoutMounts(join(templateDir, name));
  return halves.length;
}

/** From now on the template counts as broken, until it is made anew. One that has gone meanwhile needs no mark. */
export function markBroken({ files, createdAtMs }: FoundTemplate, reason: string): void {
  const { fault } = templatePaths(dirname(files.state));
  try {
    writeJsonAtomic(fault, { atMs: Date.now(), reason, createdAtMs });
  } catch (thrown) {
    if (!isNotFound(thrown)) throw thrown;
  }
}

/** What has been replaced since the template was made; undefined when nothing has. */
function findUpgrade(record: TemplateRecord, config: VmConfig): string | undefined {
  const { qemuVersion, hearthVersion } = record;
  if (hearthVersion !== config.hearthVersion) return `made by hearth ${hearthVersion}, this is ${config.hearthVersion}`;
  if (record.guestDigest !== config.guestDigest) return "made of another guest";
  if (record.programsDigest !== config.programsDigest) return `QEMU ${qemuVersion} or virtiofsd was replaced since`;
  return undefined;
}

function findDamage(paths: TemplatePaths, record: TemplateRecord): string | undefined {
  if (record.identity !== basename(paths.dir)) return "its record is another's";
  const fault = readFault(paths.fault, record);
  if (fault !== undefined) return fault;
  try {
    const memory = statSync(paths.memory, { bigint: true });
    if (Number(memory.size) !== record.memory.bytes) {
      return `vm.mem has ${memory.size} bytes instead of ${record.memory.bytes}`;
    }
    if (stampOf(memory) !== record.memory.stamp) return "vm.mem was written to";
    const state = readState(paths.state);
    if (state.length !== record.state.bytes) {
      return `vm.state has ${state.length} bytes instead of ${record.state.bytes}`;
    }
    return digestOf(state) === record.state.digest ? undefined : "vm.state has another digest";
  } catch (thrown) {
    return toHearthError(thrown, "read template").message;
  }
}

/** Undefined when there is no such template. Fails with TemplateError for one of another version. */
function readRecord(paths: TemplatePaths): TemplateRecord | undefined {
  let json: unknown;
  try {
    json = readJson(paths.record);
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw new TemplateError("broken", toHearthError(thrown, `read ${paths.record}`).message, { cause: thrown });
  }
  const result = v.safeParse(TemplateRecordSchema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new TemplateError("broken", `read ${paths.record}: ${v.getDotPath(issue) ?? ""} ${issue.message}`);
}

function readFault(path: string, { createdAtMs }: TemplateRecord): string | undefined {
  try {
    const fault = v.parse(FaultSchema, readJson(path));
    return fault.createdAtMs === createdAtMs ? fault.reason : undefined;
  } catch (thrown) {
    return isNotFound(thrown) ? undefined : "a clone could not be made of it";
  }
}

/** Directories only; none when there is no such place. */
function entriesOf(templateDir: string): string[] {
  try {
    const entries = readdirSync(templateDir, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name)
      .sort();
  } catch (thrown) {
    if (isNotFound(thrown)) return [];
    throw toHearthError(thrown, `list templates of ${templateDir}`);
  }
}

function readState(path: string): Buffer {
  const { size } = statSync(path);
  if (size > TEMPLATE_STATE_BYTES_MAX) throw new HearthError("resource-exhausted", `read ${path}: ${size} bytes`);
  return readFileSync(path);
}

function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Changes whenever somebody puts another file there or writes to it; cheaper than reading a gigabyte at every clone. */
function stampOf({ dev, ino, size, mtimeNs }: BigIntStats): string {
  return `${dev}:${ino} ${size} ${mtimeNs}`;
}

function allocatedBytes(paths: TemplatePaths): number {
  return [paths.memory, paths.state].reduce((sum, path) => {
    const blocks = statSync(path, { throwIfNoEntry: false })?.blocks ?? 0;
    return sum + blocks * BLOCK_BYTES;
  }, 0);
}

/** Source: stat(2), st_blocks. */
const BLOCK_BYTES = 512;
