/** The shape, ranges and defaults of the configuration file; strict, so that a mistyped key is an error. */
import * as v from "valibot";
import { POOL_VMS_MAX } from "../limits.ts";

const AbsolutePath = v.pipe(
  v.string(),
  v.check((path) => path.startsWith("/"), "must be an absolute path"),
  v.check((path) => !path.includes("\0"), "must not contain a zero byte"),
);
const AbsolutePathOrEmpty = v.union([v.literal(""), AbsolutePath], "must be an absolute path or empty");

/** A whole number from `min` to `max`; `unit` is for the message. */
function whole(min: number, max: number, unit: string) {
  const message = `must be a whole number of ${unit} from ${min} to ${max}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
}

function oneOf<const Options extends readonly string[]>(options: Options) {
  return v.picklist(options, `must be one of ${options.map((option) => JSON.stringify(option)).join(", ")}`);
}

/** Source of the vCPU bound: KVM_MAX_VCPUS of older kernels; more than any pod wants. */
const VCPUS_MAX = 240;
const MEMORY_MIB_MIN = 128;
const MEMORY_MIB_MAX = 1_048_576;
const TIMEOUT_MS_MAX = 600_000;
const POOL_SHAPES_MAX = 16;
const POOL_MEMORY_MIB_MAX = POOL_VMS_MAX * MEMORY_MIB_MAX;
const BOOTS_AT_ONCE_MAX = 64;
const BACKOFF_MS_MIN = 10;
const SECONDS_PER_YEAR = 31_536_000;
const QUEUE_LENGTH_MAX = 100_000;

const QEMU_ENTRIES = {
  path: v.exactOptional(AbsolutePath),
  machine_type: v.exactOptional(oneOf(["q35", "pc"])),
  accel: v.exactOptional(oneOf(["auto", "kvm", "tcg"])),
  kernel: v.exactOptional(AbsolutePathOrEmpty),
  initrd: v.exactOptional(AbsolutePathOrEmpty),
  image: v.exactOptional(AbsolutePathOrEmpty),
  kernel_params: v.exactOptional(v.string("must be a string")),
  default_vcpus: v.exactOptional(whole(1, VCPUS_MAX, "vCPUs")),
  default_maxvcpus: v.exactOptional(whole(0, VCPUS_MAX, "vCPUs")),
  default_memory: v.exactOptional(whole(MEMORY_MIB_MIN, MEMORY_MIB_MAX, "MiB")),
  default_maxmemory: v.exactOptional(whole(0, MEMORY_MIB_MAX, "MiB")),
  shared_fs: v.exactOptional(oneOf(["virtio-fs", "virtio-9p"])),
  virtio_fs_daemon: v.exactOptional(AbsolutePathOrEmpty),
  transport: v.exactOptional(oneOf(["auto", "virtio-serial", "vsock"])),
  seccomp_sandbox: v.exactOptional(v.boolean("must be true or false")),
  boot_timeout_ms: v.exactOptional(whole(1000, TIMEOUT_MS_MAX, "milliseconds")),
} as const;

const SHAPE_ENTRIES = {
  vcpus: whole(1, VCPUS_MAX, "vCPUs"),
  memory: whole(MEMORY_MIB_MIN, MEMORY_MIB_MAX, "MiB"),
  number: whole(1, POOL_VMS_MAX, "VMs"),
} as const;

const FACTORY_ENTRIES = {
  vm_cache_number: v.exactOptional(whole(0, POOL_VMS_MAX, "VMs")),
  vm_cache_shapes: v.exactOptional(
    v.pipe(
      v.array(v.pipe(v.strictObject(SHAPE_ENTRIES), v.readonly()), "must be an array of tables"),
      v.maxLength(POOL_SHAPES_MAX, `must have at most ${POOL_SHAPES_MAX} shapes`),
      v.readonly(),
    ),
  ),
  vm_cache_endpoint: v.exactOptional(AbsolutePath),
  vm_cache_timeout_ms: v.exactOptional(whole(1, TIMEOUT_MS_MAX, "milliseconds")),
  vm_cache_lease_ms: v.exactOptional(whole(100, TIMEOUT_MS_MAX, "milliseconds")),
  enable_template: v.exactOptional(v.boolean("must be true or false")),
  template_path: v.exactOptional(AbsolutePath),
  vm_cache_boots_at_once: v.exactOptional(whole(1, BOOTS_AT_ONCE_MAX, "boots")),
  vm_cache_backoff_ms: v.exactOptional(whole(BACKOFF_MS_MIN, TIMEOUT_MS_MAX, "milliseconds")),
  vm_cache_backoff_max_ms: v.exactOptional(whole(BACKOFF_MS_MIN, 3_600_000, "milliseconds")),
  vm_cache_age_max_s: v.exactOptional(whole(0, SECONDS_PER_YEAR, "seconds")),
  vm_cache_memory_max: v.exactOptional(whole(0, POOL_MEMORY_MIB_MAX, "MiB")),
  vm_cache_check_interval_s: v.exactOptional(whole(1, 86_400, "seconds")),
  vm_cache_queue_length: v.exactOptional(whole(0, QUEUE_LENGTH_MAX, "claims")),
  vm_cache_metrics_endpoint: v.exactOptional(AbsolutePathOrEmpty),
  vm_cache_metrics_port: v.exactOptional(whole(0, 65_535, "ports")),
} as const;

const RUNTIME_ENTRIES = {
  run_dir: v.exactOptional(AbsolutePath),
  data_dir: v.exactOptional(AbsolutePath),
  log_level: v.exactOptional(oneOf(["debug", "info", "warn", "error"])),
  request_timeout_ms: v.exactOptional(whole(1000, TIMEOUT_MS_MAX, "milliseconds")),
} as const;

/** A file as it is written: every key optional. `agent` has no keys yet but is a section of Kata's files. */
export const ConfigFileSchema = v.strictObject({
  hypervisor: v.exactOptional(v.strictObject({ qemu: v.exactOptional(v.strictObject(QEMU_ENTRIES)) })),
  factory: v.exactOptional(v.strictObject(FACTORY_ENTRIES)),
  agent: v.exactOptional(v.strictObject({})),
  runtime: v.exactOptional(v.strictObject(RUNTIME_ENTRIES)),
});
export type ConfigFile = v.InferOutput<typeof ConfigFileSchema>;

/** Names that may stand at a place of the file, by dotted path; "" is the top. For suggestions. */
export const KNOWN_NAMES: Readonly<Record<string, readonly string[]>> = {
  "": ["hypervisor", "factory", "agent", "runtime"],
  hypervisor: ["qemu"],
  "hypervisor.qemu": Object.keys(QEMU_ENTRIES),
  factory: Object.keys(FACTORY_ENTRIES),
  "factory.vm_cache_shapes": Object.keys(SHAPE_ENTRIES),
  agent: [],
  runtime: Object.keys(RUNTIME_ENTRIES),
};
