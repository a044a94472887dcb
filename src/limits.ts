/** Every bound in one place: value, unit, why, and its source where there is one. */

/** Bytes of data in one ttRPC frame. Source: containerd/ttrpc PROTOCOL.md. */
export const TTRPC_MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes of a unix socket path with its terminating zero. Source: unix(7), sun_path is 108 bytes. */
export const SOCKET_PATH_BYTES_MAX = 107;
/** Characters of a container id: what a file name component holds, less room for suffixes. */
export const CONTAINER_ID_LENGTH_MAX = 200;
/** Bytes of one stdio chunk carried in an RPC: large enough for throughput, small enough not to hold up other calls. */
export const STREAM_CHUNK_BYTES_MAX = 256 * 1024;
/** Calls with the bytes of one stream that a shim has in flight: guest and host work at once, each on a chunk. */
export const STREAM_CALLS_AT_ONCE = 2;
/** Bytes of one QMP line we accept. Source: QEMU's own parser limit, MAX_TOKEN_SIZE 64 MiB; nothing we ask for nears 4 MiB. */
export const QMP_LINE_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes of an OCI config.json, 4 MiB less the rest of the RPC that carries it to the guest. */
export const OCI_CONFIG_BYTES_MAX = 3 * 1024 * 1024;
/** Bytes of a compiled AppArmor profile, in one RPC: docker's has 30 KiB, those of whole desktops some 100. */
export const APPARMOR_PROFILE_BYTES_MAX = 2 * 1024 * 1024;
/** Calls that may be in flight on one ttRPC connection: each container has at most about seven long polls. */
export const TTRPC_CALLS_IN_FLIGHT_MAX = 1024;
/** Bytes of answers that one ttRPC connection holds unwritten before it stops reading requests: two messages of the largest size. */
export const TTRPC_UNWRITTEN_BYTES_MAX = 2 * TTRPC_MESSAGE_BYTES_MAX;
/** Characters of an error message that travels over RPC: a few lines of a log, far below any frame limit. */
export const RPC_ERROR_MESSAGE_LENGTH_MAX = 16 * 1024;
/** Bytes of one gRPC message, either way; the largest of the pool protocol is a few KiB. Source: grpc-js's own default. */
export const GRPC_MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
/** Calls in flight on one gRPC connection; a client has one or two. */
export const GRPC_STREAMS_PER_CONNECTION_MAX = 64;
/** gRPC connections at once; each costs about 100 KiB, and a storm of creates opens one each. */
export const GRPC_CONNECTIONS_MAX = 512;
/** Milliseconds after which a gRPC connection without a call is closed, so that forgotten ones do not fill the server. */
export const GRPC_CONNECTION_IDLE_MS = 60_000;
/** Milliseconds after which a connection takes no new calls: whoever sends half a request and then nothing is not idle. */
export const GRPC_CONNECTION_AGE_MS = 300_000;
/** Milliseconds that calls of such a connection then still have: the longest that a claim may wait (vm_cache_timeout_ms). */
export const GRPC_CONNECTION_AGE_GRACE_MS = 600_000;
/** Attempts to remove a cgroup whose last process has just died; the kernel needs a few milliseconds. 2 s in all. */
export const CGROUP_REMOVE_ATTEMPTS_MAX = 200;
export const CGROUP_REMOVE_RETRY_MS = 10;
/** Milliseconds between two tries for a file lock that somebody holds, at most: locks guard work of milliseconds. */
export const LOCK_RETRY_MS_MAX = 25;
/** Milliseconds a child has between TERM and KILL: enough to flush and unlink, short enough for an impatient engine. */
export const KILL_GRACE_MS = 2000;
/** Bytes kept of the output of a helper program that is run to its end: messages, not data. */
export const RUN_OUTPUT_BYTES_MAX = 1024 * 1024;
/** Milliseconds that output is still read after a helper program ended while somebody else holds its pipes. */
export const RUN_DRAIN_MS = 500;
/** Milliseconds for a call of the agent that spawns nothing or one short program in an emulated guest. */
export const AGENT_CALL_TIMEOUT_MS = 30_000;
/** Milliseconds to create a container or exec process in the guest; slow emulated hosts need seconds. */
export const CONTAINER_CREATE_TIMEOUT_MS = 60_000;
/** Seconds the agent waits for the processes of a container to die before it gives up removing it. */
export const AGENT_REMOVE_TIMEOUT_S = 10;
/** Processes of one container, exec processes included, that the sandbox process keeps track of. */
export const EXEC_PROCESSES_MAX = 1024;
/** Milliseconds for one QMP command; QEMU answers in one or two unless the host is out of memory or it is stopped. */
export const QMP_CALL_TIMEOUT_MS = 10_000;
/** Milliseconds a handed-out VM may wait for its adopter at most. */
export const LEASE_MS_MAX = 600_000;
/** Milliseconds the guest gets to write back and end when its VM is about to be destroyed. */
export const SANDBOX_END_AGENT_TIMEOUT_MS = 2_000;
/** The same when it has disks of the host mounted: what it does not write back is lost. */
export const DISK_FLUSH_TIMEOUT_MS = 30_000;
/** Containers in one VM. */
export const CONTAINERS_PER_SANDBOX_MAX = 256;
/**
 * KiB that the guest reads ahead over virtio-fs, each request a way to another process and back. Linux's default of 128
 * reads a large file at four fifths of the speed, 1024 only 4 % faster; but a page fault in a mapped file reads as much too.
 */
export const SHARE_READ_AHEAD_KIB = 512;
/** Bytes of entropy credited after a pause: the size of the kernel's ChaCha20 key twice over. */
export const RESEED_BYTES = 64;
/** Milliseconds that the time stamp counter is watched to tell an emulated guest its rate: to some millionths. */
export const TSC_MEASURING_MS = 10;
/** Milliseconds that a guest's clock may be before or behind the host's when its first container starts. */
export const CLOCK_ERROR_MS_MAX = 40;
/** Times a guest's clock is set until a call was quick enough: on a host that is that slow nothing better can be had. */
export const CLOCK_ATTEMPTS_MAX = 10;
/** Milliseconds. A call that sets the clock and takes longer was not slow, the host slept: it says nothing about the next. */
export const CLOCK_CALL_MS_MAX = 2_000;
/** MiB in which Linux on x86-64 adds memory. Source: Documentation/admin-guide/mm/memory-hotplug.rst. */
export const MEMORY_BLOCK_MIB = 128;
/**
 * MiB of the host that a VM's processes may take beside the guest's memory, several times over. Measured, emulated: QEMU 130 with its
 * translated code, the sandbox process 12, a shim 4, virtiofsd 1.
 */
export const VM_OVERHEAD_FIXED_MIB = 512;
/**
 * Percent of the guest's memory for what the host keeps for each file that the guest knows: virtiofsd has it open, which pins 1 to 2
 * KiB of the host's kernel for the 1 KiB that it takes of the guest's.
 */
export const VM_OVERHEAD_PERCENT = 100;
/** Milliseconds for a step that touches only local files. */
export const FILE_STEP_TIMEOUT_MS = 10_000;
/** Name servers on loopback addresses in one VM; docker has one. */
export const NAME_SERVERS_MAX = 4;
/** Queries that wait in the guest for their answers; the oldest are given up, as a name server under load does. */
export const NAME_QUERIES_MAX = 256;
/** TCP connections to the name servers of one guest; more are closed at once. Each holds a message of 64 KiB at most. */
export const NAME_CONNECTIONS_MAX = 64;
/** Milliseconds for a name server's answer: resolvers ask again after 5 s. Source: resolv.conf(5), timeout. */
export const NAME_ANSWER_TIMEOUT_MS = 5_000;
/** Connections from the host to localhost of a VM at once; each has two calls in flight to the agent. */
export const LOCALHOST_CONNECTIONS_MAX = 256;
/** Connections to localhost that wait to be taken, which happens at once. */
export const LOCALHOST_BACKLOG = 128;
/**
 * Milliseconds without a change after which what a network namespace holds is read again: an interface is made, moved,
 * renamed, given addresses and set up in so many steps. What is late is another change.
 */
export const INTERFACE_REST_MS = 20;
/** Milliseconds after which that is done even when there is no rest. */
export const INTERFACE_REST_MAX_MS = 300;
/** Milliseconds that a NIC stays for an interface that replaces its own: `podman network reload` takes some 100. */
export const INTERFACE_GONE_MS = 500;
/** Milliseconds until a failure to follow a network namespace is tried again, doubled each time. */
export const INTERFACE_RETRY_MS = 500;
/** Such trials, 32 seconds altogether; then the next change is waited for. */
export const INTERFACE_RETRIES_MAX = 6;
/** Milliseconds for one call of ip or tc; they take two or three. */
export const NETWORK_COMMAND_TIMEOUT_MS = 10_000;
/** Bytes one read of a descriptor asks for unless told: what a pipe holds by default. Source: pipe(7). */
export const FD_READ_BYTES_DEFAULT = 64 * 1024;
/** Reads or writes of one descriptor without waiting before the event loop gets its turn: 1 MiB at the default size. */
export const FD_CALLS_PER_TURN_MAX = 16;
/**
 * Calls that threads make at once on pipes that containers have the other ends of; those beyond wait. As many requests of 40
 * bytes, which the kernel counts as 768, fit into a socket twice over. Source: /proc/sys/net/core/wmem_default.
 */
export const CALL_THREADS_MAX = 128;
/** Bytes a stream holds that nobody has read yet before it stops reading from the socket; one chunk more may follow. */
export const STREAM_READ_BUFFER_BYTES_MAX = 256 * 1024;
/** Milliseconds a living server has to accept a probe before its socket counts as taken; the kernel accepts at once. */
export const SOCKET_PROBE_MS = 1000;
/** Milliseconds to wait for another server that is just binding in the same directory. */
export const SOCKET_LISTEN_LOCK_MS = 5000;
/** Exit statuses kept of orphans that ended before anybody asked for them; the asker is at most one program start behind. */
export const ORPHAN_STATUSES_MAX = 256;
/** Symbolic links in a path within a container's root. Source: Linux include/linux/namei.h, MAXSYMLINKS. */
export const SYMBOLIC_LINKS_MAX = 40;
/** Directories inside each other that a tree we remove may have: our own have about five, each holds a descriptor open. */
export const REMOVE_TREE_DEPTH_MAX = 512;
/** Milliseconds a sandbox process that has ended stays to have its last answers read. */
export const FAREWELL_TIMEOUT_MS = 1_000;
/** Milliseconds a killed QEMU may take to be gone: it frees its guest's memory. */
export const ORPHAN_EXIT_TIMEOUT_MS = 10_000;
/** Milliseconds to wait for another process that unpacks the guest: 200 MiB on a slow disk, many times over. */
export const GUEST_UNPACK_TIMEOUT_MS = 120_000;
/**
 * Descriptors beside its standard streams that a process may get: each has up to two calls in flight to the agent. Who passes any
 * passes one or two.
 */
export const PRESERVED_FDS_MAX = 64;
/** Descriptors in one message over a unix socket. Source: unix(7), SCM_MAX_FD is 253; we never pass more than a few. */
export const FDS_PER_MESSAGE_MAX = 16;
/** Bytes of QEMU's log and of the guest's console that go into an error. */
export const QEMU_LOG_TAIL_BYTES = 2048;
/** Milliseconds a step of a starting sandbox process may take beyond the boot time before its spawner ends it: its own, better explained deadline comes first. */
export const SANDBOX_STEP_MARGIN_MS = 5_000;
/** Milliseconds a sandbox process gets to end its VM after TERM: the agent's and QEMU's time to end, and the unmounting. */
export const SANDBOX_END_GRACE_MS = 5_000;
/** Bytes of one report line of a starting sandbox process. */
export const SANDBOX_REPORT_BYTES_MAX = 64 * 1024;
/** Open files that a sandbox process must be allowed: with as many it runs a container, with 30 it was seen to wait for ever. */
export const OPEN_FILES_MIN = 64;
/** Bytes kept of what a failing sandbox process wrote to its standard error: the last lines say why. */
export const SANDBOX_STDERR_TAIL_BYTES = 4 * 1024;
/**
 * Milliseconds for one call of crun in the guest: an emulated one needs 0.3 s, one with a cold cache several. The host has
 * a deadline that knows how slow it is; this one is for a crun that would stay for ever.
 */
export const CRUN_TIMEOUT_MS = 600_000;
/** Milliseconds a step of a sandbox process may take at most, however slow its host. */
export const STEP_TIMEOUT_MS_MAX = 600_000;
/** Bytes of crun's log that are read for an error message. */
export const CRUN_LOG_BYTES_MAX = 16 * 1024;
/** Bytes of what a startContainer hook that failed has written, on either stream, that are told. */
export const HOOK_OUTPUT_BYTES_MAX = 16 * 1024;
/** Bytes of a hook's state beside what the configuration holds: an id and two paths. */
export const HOOK_STATE_BYTES = 16 * 1024;
/** Milliseconds that a hook waits for crun to have written its state, which takes less than one; a frozen crun takes for ever. */
export const HOOK_STATE_TIMEOUT_MS = 10_000;
/** Milliseconds the agent waits for a hot-plugged device to appear; PCI hot-plug takes 0.2 s, emulated ones up to 2. */
export const DEVICE_APPEARS_TIMEOUT_MS = 10_000;
/**
 * Milliseconds after which a started container counts as running its program, though it may still be in a startContainer
 * hook. Below AGENT_CALL_TIMEOUT_MS.
 */
export const PROGRAM_START_TIMEOUT_MS = 10_000;
/** Milliseconds between two looks at most; executing takes 2 to 20, and hooks their time. */
export const PROGRAM_START_POLL_MS_MAX = 16;
/** Of a container's passwd; those of big directories of users have some 100 KiB. */
export const PASSWD_BYTES_MAX = 4 * 1024 * 1024;
/** Milliseconds for a frozen or thawed cgroup to say so; a process in an uninterruptible wait can delay it for ever. */
export const FREEZE_TIMEOUT_MS = 10_000;
/** OOM events that nobody has asked for yet; the oldest go first. */
export const OOM_EVENTS_MAX = 256;
/** Milliseconds that `events` listens on for the OOM kill that ended a container: both come from the guest at the same moment. */
export const OOM_AFTER_END_MS = 200;
/**
 * Bytes that a cgroup of the host is left while a process in it is made to run out of memory: for the VM's processes, which want
 * some meanwhile.
 */
export const OOM_BAIT_BYTES = 64 * 1024 * 1024;
/** Milliseconds for it to do so; it takes some 100, and longer where the kernel has file caches to give up first. */
export const OOM_BAIT_TIMEOUT_MS = 10_000;
/** Milliseconds from one such kill to the next in the same container: longer than one may take. */
export const HOST_OOM_INTERVAL_MS = 15_000;
/** Bytes a pipe of a process's standard input or output holds: fewer, larger reads and writes. Source: fcntl(2), /proc/sys/fs/pipe-max-size. */
export const STDIO_PIPE_BYTES = 256 * 1024;
/** Exec processes of a container that have ended and been read, kept for those who ask for their exit code late. */
export const FINISHED_PROCESSES_MAX = 64;
/**
 * Milliseconds for the agent's answer to the first call on a new connection, doubled with each attempt; it takes 5
 * emulated, and 20,000 in an emulated guest of an emulated host that does other things too.
 */
export const AGENT_GREETING_TIMEOUT_MS = 1_000;
/** The same over vsock, where a greeting is lost only when a clone's device is reset at that very moment. */
export const VSOCK_GREETING_TIMEOUT_MS = 5_000;
/** Connections tried before the agent counts as gone: a minute of waiting for a port that is there and silent. */
export const AGENT_CONNECT_ATTEMPTS_MAX = 6;
/** The same over vsock, whose first attempts are short. */
export const VSOCK_CONNECT_ATTEMPTS_MAX = 10;
/** Milliseconds the agent's port stays closed between two tries, for the guest to notice. */
export const AGENT_RECONNECT_PAUSE_MS = 100;
/** Times a container's directory may vanish between making it and locking it: each needs a delete in that microsecond. */
export const CONTAINER_RESERVE_ATTEMPTS_MAX = 100;
/** Milliseconds a hook without a timeout of its own may take. The spec sets none; a hook that hangs would hang the engine. */
export const HOOK_TIMEOUT_MS_DEFAULT = 300_000;
/** Milliseconds the sandbox process has to end QEMU, unmount and exit, before it is urged. */
export const SANDBOX_EXIT_TIMEOUT_MS = 10_000;
/** Milliseconds a shim has to drain its output after its container was killed; a reader that has stopped holds it up. */
export const SHIM_EXIT_TIMEOUT_MS = 2000;
/** Milliseconds a new shim has to connect and answer. */
export const SHIM_READY_TIMEOUT_MS = 10_000;
/** Bytes of a shim's answer to whoever started it: one line with a message. */
export const SHIM_REPORT_BYTES_MAX = 64 * 1024;
/** Milliseconds to connect to a sandbox process that is known to listen. */
export const SANDBOX_CONNECT_TIMEOUT_MS = 10_000;
/** Mounts of the host below a read-only bind mount that are made one by one in the guest, to be writable there. Each takes it some milliseconds. */
export const MOUNTS_BELOW_MAX = 128;
/**
 * Bytes in a Kubernetes volume of which the guest has a copy: a secret or config map has a MiB at most. A message of the agent's
 * protocol has room for them.
 */
export const MIRRORED_BYTES_MAX = 2 * 1024 * 1024;
/** Files in such a volume, directories and links included. */
export const MIRRORED_FILES_MAX = 1024;
/** Bytes that the copy may take in the guest's memory: the old files and the new, a page for each that is smaller. */
export const MIRROR_SIZE_BYTES = 16 * 1024 * 1024;
/** Milliseconds from a change of such a volume to its reading: a kubelet makes several at once. */
export const MIRROR_SETTLE_MS = 20;
/** Times it is read while it changes. */
export const MIRROR_READS_MAX = 20;
/** Times a change is sent to the guest, so many milliseconds apart. */
export const MIRROR_ATTEMPTS_MAX = 5;
export const MIRROR_RETRY_MS = 1_000;
/** Milliseconds after which it is looked at without a sign of a change. A kubelet looks as often. */
export const MIRROR_LOOK_MS = 60_000;
/** Milliseconds the owner of a console or pidfd socket has to take what it is handed. */
export const HAND_OVER_TIMEOUT_MS = 10_000;
/** Times a list of links, addresses or routes is asked for when it changed while the kernel sent it. */
export const NETLINK_DUMP_ATTEMPTS_MAX = 10;
/** VMs of one pool: each is three processes, and a host has not more than so many. */
export const POOL_VMS_MAX = 1000;
/**
 * Milliseconds a pooled VM has to accept its lease: QEMU and the agent are asked whether they live, which takes some
 * milliseconds, and many times that on a host that is overloaded with boots. What is stopped is found without waiting.
 */
export const VM_LEASE_TIMEOUT_MS = 1_000;
/** Milliseconds the agent has to answer before its VM is given away: longer than a pool waits for a lease. */
export const VM_LEASE_AGENT_TIMEOUT_MS = 2_000;
/** Milliseconds a pooled VM has for its regular check, which resumes the guest and asks the agent; slow when boots compete. */
export const VM_CHECK_TIMEOUT_MS = 10_000;
/** Milliseconds for which an answer of the agent counts as just given: a lease within them does not ask it again. */
export const VM_PROVEN_MS = 5_000;
/** Milliseconds without a further change after which changed files are read: a package manager's next step comes sooner. */
export const SETTINGS_SETTLE_MS = 300;
/** Milliseconds for `hearth --version` of the program that takes our place. */
export const PROGRAM_TRIAL_TIMEOUT_MS = 10_000;
/** Idle VMs of a shape that are checked at once: each check resumes a guest, and claims and boots want the CPUs too. */
export const VM_CHECKS_AT_ONCE_MAX = 2;
/**
 * Milliseconds between two looks at which idle VMs are due for a check, and at whether the host was suspended. At each the
 * VM next in line proves anew that it lives: about 9 ms of CPU, emulated, so 0.3 % of a core for each shape.
 */
export const POOL_LOOK_INTERVAL_MS = 3_000;
/** Milliseconds asleep that count as a suspension of the host; the two clocks are read one after the other. */
export const SUSPENSION_MS_MIN = 1_000;
/** Milliseconds an idle VM has to destroy itself before it is made to. */
export const VM_DESTROY_TIMEOUT_MS = 3_000;
/** Milliseconds an idle VM must have lived for its death to be no fault of the boot: a shorter life backs the slot off. */
export const VM_STABLE_MS = 10_000;
/** Milliseconds that calls in flight get when the pool server ends; those that wait for a VM are refused at once. */
export const POOL_SHUTDOWN_GRACE_MS = 2_000;
/** Milliseconds that a pool server which ends gives its VMs to end by themselves: many at once, on a busy host. Then they are killed. */
export const POOL_END_KILL_MS = 6_000;
/**
 * Milliseconds after which it leaves what even so has not ended, as when the kernel does not let a process die: it has
 * ended within 10 s, whatever happens. What stays is collected by the next server, or by the next boot of a VM.
 */
export const POOL_END_TIMEOUT_MS = 9_000;
/** Milliseconds in which the server at an endpoint must answer what it is; one that is stopped or no pool does not. */
export const POOL_PROBE_TIMEOUT_MS = 2_000;
/** Milliseconds a pool server that was asked to quit has to be gone. */
export const POOL_QUIT_TIMEOUT_MS = 15_000;
/** Seconds after which an HTTP connection on which nothing happens is closed; a scrape takes milliseconds. */
export const HTTP_IDLE_SECONDS = 30;
/** Milliseconds for which a measure of the VMs' memory stands: one takes about 5 ms of the kernel's time a process. */
export const MEMORY_SAMPLE_MS = 60_000;
/** QMP commands without an answer yet: QEMU runs them one after another, and we rarely have two. */
export const QMP_CALLS_PENDING_MAX = 64;
/** Bytes of a child's newest output kept in memory: a kernel panic with its trace is about 6 KiB. */
export const CAPTURED_TAIL_BYTES = 16 * 1024;
/** Bytes of a log file that a guest can write to at will; the run directory is memory. */
export const GUEST_LOG_BYTES_MAX = 1024 * 1024;
/** Milliseconds in which QEMU, once its monitor connection broke, must have ended to be named as the cause. */
export const QEMU_END_WAIT_MS = 1000;
/** Milliseconds the guest has to let a device go: a driver that flushes a disk, emulated. */
export const UNPLUG_TIMEOUT_MS = 20_000;
/** Milliseconds to save or restore a VM's state: its memory once through a file, on a slow disk. */
export const MIGRATION_TIMEOUT_MS = 60_000;
/** Milliseconds between two looks whether QEMU has finished with a VM it has saved: an instant, if it comes to that. */
export const MIGRATION_FINALIZED_POLL_MS = 2;
/** Bytes a second of a migration; its own default would slow a local file down. */
export const MIGRATION_BANDWIDTH = 64 * 1024 * 1024 * 1024;
/** Milliseconds for `qemu --version`: an instant, but on an emulated host that boots VMs. */
export const QEMU_VERSION_TIMEOUT_MS = 30_000;
/** Connections waiting for QEMU or virtiofsd to accept: each serves one client. */
export const DEVICE_SOCKET_BACKLOG = 4;
/** Milliseconds for `virtiofsd --version`. */
export const VIRTIOFSD_VERSION_TIMEOUT_MS = 5_000;
/** Milliseconds the kernel has to end a process that got SIGKILL: much, because a loaded host may swap or write cores. */
export const KILLED_EXIT_TIMEOUT_MS = 10_000;
/** Bytes of a template's state, its memory apart: devices and CPUs, a third of a MiB. */
export const TEMPLATE_STATE_BYTES_MAX = 64 * 1024 * 1024;
/** MiB free where a template is made: what a guest has written to when it is saved, twice over. */
export const TEMPLATE_ROOM_MIB = 256;
/** Milliseconds for which a VM that is to be a template rests before it is saved: what its kernel puts off, it does within some hundred. */
export const TEMPLATE_REST_MS = 500;
/** Milliseconds to wait for somebody else who makes or removes templates: a boot, many times over. */
export const TEMPLATE_LOCK_TIMEOUT_MS = 120_000;
/** Milliseconds until the pool tries again to make a template that could not be made; it boots its VMs meanwhile. */
export const TEMPLATE_RETRY_MS = 60_000;
/** CIDs or reserved ports tried until one is free. With half of all taken, all of these are with a chance of 2^-64. */
export const VSOCK_ATTEMPTS_MAX = 64;
/** Connections waiting for the guest's agent to accept them: it has one client, and does so at once. */
export const VSOCK_BACKLOG = 4;
/** Milliseconds for the guest to take a vsock connection at the first attempt; doubles with each. A clone may still have its template's address. */
export const VSOCK_CONNECT_TIMEOUT_MS = 100;
/** Times that 8 MiB of the emulator's translation buffer are filled so that it begins it anew: more than all of it. */
export const TRANSLATION_BUFFER_FILLS_MAX = 16;
/** Times a thread makes its root directory its own again, to change its mount namespace: another thread may be started in between. */
export const SETNS_ATTEMPTS_MAX = 100;
