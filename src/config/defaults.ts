/** The configuration where no file says otherwise. Imports nothing heavy: `state` uses it without reading TOML. */
import {
  DEFAULT_DATA_DIR,
  DEFAULT_RUN_DIR,
  defaultCacheSocket,
  defaultMetricsSocket,
  defaultTemplateDir,
} from "../paths.ts";
import type { HearthConfig } from "./config.ts";

export const DEFAULT_CONFIG: HearthConfig = {
  hypervisor: {
    path: "/usr/bin/qemu-system-x86_64",
    machine_type: "q35",
    accel: "auto",
    kernel: "",
    initrd: "",
    image: "",
    kernel_params: "",
    default_vcpus: 1,
    default_maxvcpus: 0,
    default_memory: 1024,
    default_maxmemory: 0,
    shared_fs: "virtio-fs",
    virtio_fs_daemon: "",
    transport: "auto",
    seccomp_sandbox: true,
    boot_timeout_ms: 60_000,
  },
  factory: {
    vm_cache_number: 0,
    vm_cache_shapes: [],
    vm_cache_endpoint: defaultCacheSocket(DEFAULT_RUN_DIR),
    vm_cache_timeout_ms: 500,
    vm_cache_lease_ms: 10_000,
    enable_template: false,
    template_path: defaultTemplateDir(DEFAULT_RUN_DIR),
    vm_cache_boots_at_once: 2,
    vm_cache_backoff_ms: 1000,
    vm_cache_backoff_max_ms: 60_000,
    vm_cache_age_max_s: 86_400,
    vm_cache_memory_max: 0,
    vm_cache_check_interval_s: 300,
    vm_cache_queue_length: 256,
    vm_cache_metrics_endpoint: defaultMetricsSocket(DEFAULT_RUN_DIR),
    vm_cache_metrics_port: 0,
  },
  runtime: {
    run_dir: DEFAULT_RUN_DIR,
    data_dir: DEFAULT_DATA_DIR,
    log_level: "info",
    request_timeout_ms: 60_000,
  },
};
