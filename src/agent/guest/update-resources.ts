/** The limits of an `update`, completed with what the container's cgroup has now where crun would forget it. */
import { completeCpuMax } from "../../oci/cpu-max.ts";
import { parseOciJson, stringifyOciJson } from "../../oci/json.ts";
import { isRecord, type JsonRecord, recordAt } from "./json-record.ts";

/**
 * `json` is OCI linux.resources; `read` gives a file of the cgroup (version 2), undefined when there is none.
 * crun writes "max" for a CPU quota that it is not told, and takes no limit of swap without one of memory.
 */
export function completeResources(json: string, read: (file: string) => string | undefined): string {
  const resources = parseOciJson(json, "resources");
  if (!isRecord(resources)) return json;
  const complete = { ...resources };
  if (isRecord(complete["cpu"])) complete["cpu"] = completeCpuMax(complete["cpu"], read("cpu.max") ?? "");
  const memory = recordAt(complete, "memory");
  if (Object.keys(memory).length > 0) complete["memory"] = completeMemory(memory, read);
  return stringifyOciJson(complete);
}

function completeMemory(memory: JsonRecord, read: (file: string) => string | undefined): JsonRecord {
  const { limit, swap } = memory;
  // No limit of memory and one of both together contradict each other. As runc.
  if (limit === -1 && swap === undefined) return { ...memory, swap: -1 };
  if (limit !== undefined || typeof swap !== "number" || swap <= 0) return memory;
  const current = Number(read("memory.max"));
  return Number.isInteger(current) && current > 0 ? { ...memory, limit: current } : memory;
}
