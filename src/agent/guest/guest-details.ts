/** GetGuestDetails: what this guest and its agent can do. */
import { existsSync, readFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { isNotFound, toHearthError } from "../../errors.ts";
import type { GuestDetailsRequest, GuestDetailsResponseSchema } from "../../gen/agent_pb.ts";
import { VERSION } from "../../version.ts";
import { DEVICE_DRIVERS } from "./devices.ts";
import { STORAGE_DRIVERS } from "./storage.ts";

const MEMORY_DIR = "/sys/devices/system/memory";

export function guestDetails(request: GuestDetailsRequest): MessageInitShape<typeof GuestDetailsResponseSchema> {
  return {
    memBlockSizeBytes: request.memBlockSize ? memoryBlockBytes() : 0n,
    supportMemHotplugProbe: request.memHotplugProbe && existsSync(`${MEMORY_DIR}/probe`),
    agentDetails: {
      version: VERSION,
      initDaemon: process.pid === 1,
      deviceHandlers: [...DEVICE_DRIVERS],
      storageHandlers: [...STORAGE_DRIVERS],
      supportsSeccomp: existsSync("/proc/sys/kernel/seccomp/actions_avail"),
      extraFeatures: ["oci-json"],
    },
  };
}

/** Hexadecimal without a prefix; zero when the kernel has no memory hot-plug. */
function memoryBlockBytes(): bigint {
  try {
    return BigInt(`0x${readFileSync(`${MEMORY_DIR}/block_size_bytes`, "utf8").trim()}`);
  } catch (thrown) {
    if (isNotFound(thrown)) return 0n;
    throw toHearthError(thrown, "read memory block size");
  }
}
