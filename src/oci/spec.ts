/** The OCI configuration (config.json): the shape we rely on, loose so that unknown properties pass through to the guest. */
import * as v from "valibot";
import { HearthError } from "../errors.ts";
import { OCI_CONFIG_BYTES_MAX } from "../limits.ts";
import { parseOciJson, stringifyOciJson } from "./json.ts";

const text = v.string("must be a string");
const flag = v.boolean("must be true or false");
const strings = v.array(text, "must be a list of strings");
/** Whole numbers; those beyond 2^53 are bigint. */
const whole = v.union([v.pipe(v.number(), v.integer()), v.bigint()], "must be a whole number");
const id = v.pipe(
  v.number("must be a whole number"),
  v.integer("must be a whole number"),
  v.minValue(0, "must not be negative"),
  v.maxValue(0xffff_ffff, "must be below 2^32"),
);
const absolute = v.pipe(
  text,
  v.check((path) => path.startsWith("/"), "must be an absolute path"),
);
const noZero = v.pipe(
  text,
  v.check((value) => !value.includes("\0"), "must not contain a zero byte"),
);
const object = v.looseObject({});
const variable = v.pipe(
  noZero,
  v.check((entry) => entry.indexOf("=") > 0, "must be a name, = and a value"),
);

/** As runc: of variables with one name the last one counts, where a program would see the first. */
function lastOfEachName(env: string[]): string[] {
  const last = new Map(env.map((entry) => [entry.slice(0, entry.indexOf("=")), entry]));
  return [...last.values()];
}

/** Of a process, as runc has it; the kernel takes the highest of its own for "stay what you are". Source: setresuid(2). */
const userId = v.pipe(id, v.maxValue(0x7fff_ffff, "must be below 2^31"));

const UserSchema = v.looseObject({
  uid: v.optional(userId, 0),
  gid: v.optional(userId, 0),
  umask: v.optional(id),
  // As runc: each once.
  additionalGids: v.optional(
    v.pipe(
      v.array(userId, "must be a list of group ids"),
      v.transform((gids) => [...new Set(gids)]),
    ),
  ),
  username: v.optional(text),
});

const CapabilitiesSchema = v.looseObject({
  bounding: v.optional(strings),
  effective: v.optional(strings),
  inheritable: v.optional(strings),
  permitted: v.optional(strings),
  ambient: v.optional(strings),
});

/** Source: sched_setattr(2). */
const SchedulerSchema = v.looseObject({
  policy: text,
  nice: v.optional(whole),
  priority: v.optional(whole),
  flags: v.optional(strings),
  runtime: v.optional(whole),
  deadline: v.optional(whole),
  period: v.optional(whole),
});

const IoPrioritySchema = v.looseObject({ class: text, priority: v.optional(whole) });

export const ProcessSchema = v.looseObject({
  terminal: v.optional(flag),
  consoleSize: v.optional(v.looseObject({ height: whole, width: whole })),
  user: v.optional(UserSchema, { uid: 0, gid: 0 }),
  args: v.optional(v.array(noZero, "must be a list of strings")),
  env: v.optional(v.pipe(v.array(variable, "must be a list of strings"), v.transform(lastOfEachName))),
  cwd: v.pipe(text, v.nonEmpty("must not be empty"), absolute),
  capabilities: v.optional(CapabilitiesSchema),
  rlimits: v.optional(v.array(v.looseObject({ type: text, hard: whole, soft: whole }), "must be a list")),
  noNewPrivileges: v.optional(flag),
  apparmorProfile: v.optional(text),
  oomScoreAdj: v.optional(whole),
  scheduler: v.optional(SchedulerSchema),
  ioPriority: v.optional(IoPrioritySchema),
  selinuxLabel: v.optional(text),
});

/** Missing ones are 0. Source: OCI runtime spec, config-linux.md#user-namespace-mappings. */
const IdMappingSchema = v.looseObject({
  containerID: v.optional(id, 0),
  hostID: v.optional(id, 0),
  size: v.optional(id, 0),
});
const idMappings = v.optional(v.array(IdMappingSchema, "must be a list of mappings"));

const MountSchema = v.looseObject({
  destination: v.pipe(noZero, v.nonEmpty("must not be empty")),
  type: v.optional(text),
  source: v.optional(noZero),
  options: v.optional(strings),
  uidMappings: idMappings,
  gidMappings: idMappings,
});

const HookSchema = v.looseObject({
  path: absolute,
  args: v.optional(strings),
  env: v.optional(strings),
  /** Seconds. */
  timeout: v.optional(v.pipe(v.number("must be a number of seconds"), v.gtValue(0, "must be above 0"))),
});
const hooks = v.optional(v.array(HookSchema, "must be a list of hooks"));
const HooksSchema = v.looseObject({
  prestart: hooks,
  createRuntime: hooks,
  createContainer: hooks,
  startContainer: hooks,
  poststart: hooks,
  poststop: hooks,
});

const SeccompSchema = v.looseObject({
  defaultAction: v.optional(text),
  listenerPath: v.optional(text),
  syscalls: v.optional(v.array(v.looseObject({ names: strings, action: text }), "must be a list of rules")),
});

const DeviceSchema = v.looseObject({
  path: absolute,
  type: v.pipe(text, v.regex(/^[bcup]$/, "must be b, c, u or p")),
  major: v.optional(whole),
  minor: v.optional(whole),
  fileMode: v.optional(whole),
  uid: v.optional(id),
  gid: v.optional(id),
});

const blockDevice = { major: whole, minor: whole };
const throttles = v.optional(v.array(v.looseObject({ ...blockDevice, rate: whole }), "must be a list"));
const BlockIoSchema = v.looseObject({
  weight: v.optional(whole),
  leafWeight: v.optional(whole),
  weightDevice: v.optional(
    v.array(
      v.looseObject({ ...blockDevice, weight: v.optional(whole), leafWeight: v.optional(whole) }),
      "must be a list",
    ),
  ),
  throttleReadBpsDevice: throttles,
  throttleWriteBpsDevice: throttles,
  throttleReadIOPSDevice: throttles,
  throttleWriteIOPSDevice: throttles,
});

export const ResourcesSchema = v.looseObject({
  memory: v.optional(v.looseObject({ limit: v.optional(whole) })),
  cpu: v.optional(
    v.looseObject({
      shares: v.optional(whole),
      quota: v.optional(whole),
      period: v.optional(whole),
      burst: v.optional(whole),
      idle: v.optional(whole),
      cpus: v.optional(text),
      mems: v.optional(text),
    }),
  ),
  pids: v.optional(v.looseObject({ limit: v.optional(whole) })),
  devices: v.optional(v.array(object)),
  blockIO: v.optional(BlockIoSchema),
  network: v.optional(object),
  rdma: v.optional(object),
  hugepageLimits: v.optional(v.array(v.looseObject({ pageSize: text, limit: whole }), "must be a list")),
  unified: v.optional(v.record(text, text)),
});

/** Source: time_namespaces(7). */
const TimeOffsetSchema = v.looseObject({ secs: v.optional(whole), nanosecs: v.optional(whole) });

const LinuxSchema = v.looseObject({
  namespaces: v.optional(v.array(v.looseObject({ type: text, path: v.optional(text) }), "must be a list")),
  uidMappings: idMappings,
  gidMappings: idMappings,
  devices: v.optional(v.array(DeviceSchema, "must be a list of devices")),
  netDevices: v.optional(v.record(text, v.looseObject({ name: v.optional(text) }))),
  cgroupsPath: v.optional(noZero),
  resources: v.optional(ResourcesSchema),
  rootfsPropagation: v.optional(text),
  seccomp: v.optional(SeccompSchema),
  sysctl: v.optional(v.record(text, text)),
  timeOffsets: v.optional(v.record(v.picklist(["boottime", "monotonic"], "must name a clock"), TimeOffsetSchema)),
  maskedPaths: v.optional(strings),
  readonlyPaths: v.optional(strings),
  mountLabel: v.optional(text),
});

const SpecSchema = v.looseObject({
  ociVersion: v.pipe(
    text,
    v.check((version) => /^1\.\d+\.\d+(?:[-+].*)?$/.test(version), "must be a 1.x version of the OCI runtime spec"),
  ),
  process: v.optional(ProcessSchema),
  root: v.optional(
    v.looseObject({
      path: v.pipe(noZero, v.nonEmpty("must not be empty")),
      readonly: v.optional(flag),
    }),
  ),
  hostname: v.optional(noZero),
  domainname: v.optional(noZero),
  mounts: v.optional(v.array(MountSchema, "must be a list of mounts")),
  hooks: v.optional(HooksSchema),
  annotations: v.optional(v.record(text, text)),
  linux: v.optional(LinuxSchema),
});

export type Spec = v.InferOutput<typeof SpecSchema>;
export type Process = v.InferOutput<typeof ProcessSchema>;
export type IdMapping = v.InferOutput<typeof IdMappingSchema>;
export type Mount = v.InferOutput<typeof MountSchema>;
export type Hook = v.InferOutput<typeof HookSchema>;
export type Hooks = v.InferOutput<typeof HooksSchema>;
export type LinuxDevice = v.InferOutput<typeof DeviceSchema>;
export type Resources = v.InferOutput<typeof ResourcesSchema>;
export type Namespace = { type: string; path?: string | undefined };

/** Parses and checks a configuration. Fails with invalid-argument in one line that names the property. */
export function parseSpec(text: string, source: string): Spec {
  return parseWith(SpecSchema, text, source);
}

/** Parses and checks an OCI process, as `exec --process` gives one. */
export function parseProcess(text: string, source: string): Process {
  return parseWith(ProcessSchema, text, source);
}

/** Parses and checks OCI hooks. */
export function parseHooks(text: string, source: string): Hooks {
  return parseWith(HooksSchema, text, source);
}

/** Parses and checks OCI linux.resources, as `update --resources` gives them. */
export function parseResources(text: string, source: string): Resources {
  return parseWith(ResourcesSchema, text, source);
}

/** The configuration (or a part of it) as JSON; JSON.stringify would fail on its large integers. */
export function stringifySpec(value: Spec | Process | Hooks | Resources): string {
  return stringifyOciJson(value);
}

function parseWith<S extends v.GenericSchema>(schema: S, text: string, source: string): v.InferOutput<S> {
  if (Buffer.byteLength(text) > OCI_CONFIG_BYTES_MAX) {
    throw new HearthError("invalid-argument", `read ${source}: larger than ${OCI_CONFIG_BYTES_MAX} bytes`);
  }
  const result = v.safeParse(schema, parseOciJson(text, source));
  if (result.success) return result.output;
  throw new HearthError("invalid-argument", `check ${source}: ${describeIssue(result.issues[0])}`, {
    facts: { source },
  });
}

function describeIssue(issue: v.BaseIssue<unknown>): string {
  const property = v.getDotPath(issue) ?? "the configuration";
  if (issue.input === undefined) return `${property} is missing`;
  const got = typeof issue.input === "object" || issue.input === "" ? "" : `, got ${shown(issue.input)}`;
  const rule = issue.message.startsWith("must") ? issue.message : "must be an object";
  return `${property} ${rule}${got}`;
}

const SHOWN_CHARACTERS_MAX = 80;

function shown(value: unknown): string {
  const text = typeof value === "bigint" ? value.toString() : JSON.stringify(value);
  return text.length <= SHOWN_CHARACTERS_MAX ? text : `${text.slice(0, SHOWN_CHARACTERS_MAX)}…`;
}

/** The parts without which no container can be created, checked one by one for a message of their own. */
export function checkCreatable(spec: Spec, source: string): asserts spec is Spec & { process: Process } {
  const refuse = (why: string): never => {
    throw new HearthError("invalid-argument", `check ${source}: ${why}`, { facts: { source } });
  };
  if (spec.process === undefined) refuse("process must not be empty");
  const { args } = spec.process ?? {};
  if (args === undefined || args.length === 0) refuse("process.args must not be empty");
  // In the words by which engines tell a program that is not there.
  if (args?.[0] === "") refuse('process.args[0]: exec: "": executable file not found in $PATH');
  if (spec.root === undefined) refuse("root must be specified");
}
