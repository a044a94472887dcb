/** Every bound in one place: value, unit, why, and its source where there is one. */

/** Bytes of data in one ttRPC frame. Source: containerd/ttrpc PROTOCOL.md. */
export const TTRPC_MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes of a unix socket path with its terminating zero. Source: unix(7), sun_path is 108 bytes. */
export const SOCKET_PATH_BYTES_MAX = 107;
/** Characters of a container id: what a file name component holds, less room for suffixes. */
export const CONTAINER_ID_LENGTH_MAX = 200;
/** Bytes of one stdio chunk carried in an RPC: large enough for throughput, small enough not to hold up other calls. */
export const STREAM_CHUNK_BYTES_MAX = 256 * 1024;
/** Bytes of one QMP line we accept. Source: QEMU's own parser limit, MAX_TOKEN_SIZE 64 MiB; nothing we ask for nears 4 MiB. */
export const QMP_LINE_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes of an OCI config.json, 4 MiB less the rest of the RPC that carries it to the guest. */
export const OCI_CONFIG_BYTES_MAX = 3 * 1024 * 1024;
/** Calls that may be in flight on one ttRPC connection: each container has at most about five long polls. */
export const TTRPC_CALLS_IN_FLIGHT_MAX = 1024;
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
