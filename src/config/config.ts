/** The host configuration: what each key means, its unit, range and default. Read from TOML by load.ts. */

/** One size of VM in the pool. */
export interface VmCacheShape {
  /** 1 to 240. */
  readonly vcpus: number;
  /** MiB, 128 to 1048576. */
  readonly memory: number;
  /** VMs kept ready, 1 to 1000. */
  readonly number: number;
}

export interface HearthConfig {
  readonly hypervisor: {
    /** QEMU's executable. */
    readonly path: string;
    readonly machine_type: "q35" | "pc";
    readonly accel: "auto" | "kvm" | "tcg";
    /** Empty: the kernel, initrd and image that the executable carries. */
    readonly kernel: string;
    readonly initrd: string;
    readonly image: string;
    /** Appended to our own parameters. */
    readonly kernel_params: string;
    /** 1 to 240. */
    readonly default_vcpus: number;
    /** 0: as many as the host has. */
    readonly default_maxvcpus: number;
    /** MiB, 128 to 1048576. */
    readonly default_memory: number;
    /** MiB; 0: what the host has. */
    readonly default_maxmemory: number;
    readonly shared_fs: "virtio-fs" | "virtio-9p";
    /** Empty: looked for in the places Debian and Fedora put it. */
    readonly virtio_fs_daemon: string;
    readonly transport: "auto" | "virtio-serial" | "vsock";
    readonly seccomp_sandbox: boolean;
    /** Milliseconds until the agent must have answered, 1000 to 600000. */
    readonly boot_timeout_ms: number;
  };
  readonly factory: {
    /** VMs of the default size kept ready; 0: no pool. 0 to 1000. Without meaning where there are shapes. */
    readonly vm_cache_number: number;
    /** Sizes of VMs side by side; none: one of the default size. The first serves clients that name no size. */
    readonly vm_cache_shapes: readonly VmCacheShape[];
    /** Unix socket of the pool server. */
    readonly vm_cache_endpoint: string;
    /** Milliseconds a create waits for the pool before it boots a VM itself, 1 to 600000. */
    readonly vm_cache_timeout_ms: number;
    /** Milliseconds in which a handed-out VM must be adopted, 100 to 600000. */
    readonly vm_cache_lease_ms: number;
    /** VMs are clones of a saved one. They share its memory: a side channel between them, CVE-2015-2877. */
    readonly enable_template: boolean;
    /** Where saved VMs are; on tmpfs, since their memory is there. */
    readonly template_path: string;
    /** VMs booted at once to fill the pool, 1 to 64. */
    readonly vm_cache_boots_at_once: number;
    /** Milliseconds until a slot whose boot failed tries again, 10 to 600000; doubles with each failure in a row. */
    readonly vm_cache_backoff_ms: number;
    /** Milliseconds which that does not exceed, 10 to 3600000. */
    readonly vm_cache_backoff_max_ms: number;
    /** Seconds after which an idle VM is replaced, up to a year; 0: never. */
    readonly vm_cache_age_max_s: number;
    /** MiB that the VMs of the pool, idle and booting, may have together; 0: no bound. */
    readonly vm_cache_memory_max: number;
    /** Seconds between two checks of an idle VM, 1 to 86400. */
    readonly vm_cache_check_interval_s: number;
    /** Claims that wait for VMs of one shape, 0 to 100000; more are refused at once. */
    readonly vm_cache_queue_length: number;
    /** Unix socket on which the pool server's metrics are read; empty: none. */
    readonly vm_cache_metrics_endpoint: string;
    /** Port on 127.0.0.1 for them, 1 to 65535; 0: none. Whoever is on this host may read them there. */
    readonly vm_cache_metrics_port: number;
  };
  readonly runtime: {
    /** Sockets, locks and records; on tmpfs, owned by root. */
    readonly run_dir: string;
    /** Unpacked guest assets. */
    readonly data_dir: string;
    readonly log_level: "debug" | "info" | "warn" | "error";
    /** Milliseconds, 1000 to 600000: how long a command waits for the sandbox process and the guest. */
    readonly request_timeout_ms: number;
  };
}
