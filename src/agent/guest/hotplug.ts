/** Bringing plugged vCPUs and memory blocks online. Source: Documentation/admin-guide/{cputopology,mm/memory-hotplug}.rst. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException, isNotFound, toHearthError } from "../../errors.ts";
import { waitForDevice } from "./devices.ts";

const CPU_DIR = "/sys/devices/system/cpu";
const MEMORY_DIR = "/sys/devices/system/memory";

export interface OnlineRequest {
  /** Wait until that many CPUs more are online than after the last call. */
  readonly wait: boolean;
  readonly cpus: number;
  /** Memory blocks too: all that are there. */
  readonly memory: boolean;
}

export class Hotplug {
  /** CPUs online when the agent started or after the last call: some kernels bring new ones online by themselves. */
  #cpusOnline: number;

  constructor() {
    this.#cpusOnline = countCpusOnline();
  }

  async online(request: OnlineRequest, signal: AbortSignal): Promise<void> {
    const wanted = this.#cpusOnline + request.cpus;
    const step = (): true | undefined => {
      if (request.cpus > 0) bringCpusOnline(request.cpus);
      return countCpusOnline() >= wanted ? true : undefined;
    };
    if (request.wait) await waitForDevice(`${request.cpus} more CPUs online`, step, signal);
    else step();
    this.#cpusOnline = countCpusOnline();
    if (request.memory) bringMemoryOnline();
  }
}

/** Number of CPUs in a list such as "0-3,7". */
export function countCpuList(list: string): number {
  let count = 0;
  for (const range of list.trim().split(",")) {
    if (range === "") continue;
    const [first = "", last = first] = range.split("-");
    count += Number(last) - Number(first) + 1;
  }
  return count;
}

function countCpusOnline(): number {
  return countCpuList(read(join(CPU_DIR, "online")));
}

function bringCpusOnline(count: number): void {
  let left = count;
  for (const name of list(CPU_DIR, /^cpu\d+$/)) {
    if (left === 0) return;
    const file = join(CPU_DIR, name, "online");
    // cpu0 often has no such file: it cannot go offline.
    if (readIfThere(file)?.trim() !== "0") continue;
    write(file, "1");
    left--;
  }
}

function bringMemoryOnline(): void {
  for (const name of list(MEMORY_DIR, /^memory\d+$/)) {
    const file = join(MEMORY_DIR, name, "state");
    if (readIfThere(file)?.trim() === "offline") write(file, "online");
  }
}

function list(dir: string, pattern: RegExp): string[] {
  try {
    return readdirSync(dir).filter((name) => pattern.test(name));
  } catch (thrown) {
    if (isNotFound(thrown)) return [];
    throw toHearthError(thrown, `list ${dir}`);
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, `read ${path}`);
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw toHearthError(thrown, `read ${path}`);
  }
}

/** Somebody else may have been faster: EBUSY and EINVAL then mean that it is online. */
function write(path: string, value: string): void {
  try {
    writeFileSync(path, value);
  } catch (thrown) {
    const now = readIfThere(path)?.trim();
    if (now === value) return;
    const errno = isErrnoException(thrown) ? thrown.code : "";
    throw toHearthError(thrown, `write ${value} to ${path} (is ${now}, ${errno})`);
  }
}
