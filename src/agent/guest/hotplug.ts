/** Bringing plugged vCPUs and memory blocks online. Source: Documentation/admin-guide/{cputopology,mm/memory-hotplug}.rst. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException, isNotFound, toHearthError } from "../../errors.ts";
import { waitForDevice } from "./devices.ts";

const CPU_DIR = "/sys/devices/system/cpu";
const MEMORY_DIR = "/sys/devices/system/memory";

export interface OnlineRequest {
  /** Wait until what was plugged has appeared: `cpus` CPUs more than after the last call; for memory, one block more. */
  readonly wait: boolean;
  readonly cpus: number;
  /** Memory too: every block that is there. */
  readonly memory: boolean;
}

export class Hotplug {
  /** After the last call: some kernels bring new CPUs and memory online by themselves. */
  #before: { readonly cpus: number; readonly blocks: number } | undefined;

  /** Takes note of what is online, as the state before anything is plugged; later calls do nothing. */
  begin(): void {
    this.#before ??= { cpus: countCpusOnline(), blocks: memoryBlocks("online").length };
  }

  async online(request: OnlineRequest, signal: AbortSignal): Promise<void> {
    const { wait, cpus, memory } = request;
    const before = this.#before ?? { cpus: countCpusOnline(), blocks: memoryBlocks("online").length };
    const cpusWanted = before.cpus + cpus;
    const blocksWanted = before.blocks + (memory && wait ? 1 : 0);
    const step = (): true | undefined => {
      if (cpus > 0) bringCpusOnline(cpus);
      if (memory) bringMemoryOnline();
      const done = countCpusOnline() >= cpusWanted && memoryBlocks("online").length >= blocksWanted;
      return done ? true : undefined;
    };
    const what = `${cpus} more CPUs${memory ? " and more memory" : ""} online`;
    if (wait) await waitForDevice(what, step, signal);
    else step();
    this.#before = { cpus: countCpusOnline(), blocks: memoryBlocks("online").length };
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

/**
 * Repeated until nothing is offline: the blocks of one DIMM appear one after the other, and the kernel lets the first
 * be written to only when all are there.
 */
function bringMemoryOnline(): void {
  for (let offline = memoryBlocks("offline"); offline.length > 0; offline = memoryBlocks("offline")) {
    for (const name of offline) write(join(MEMORY_DIR, name, "state"), "online");
  }
}

function memoryBlocks(state: "online" | "offline"): string[] {
  return list(MEMORY_DIR, /^memory\d+$/).filter(
    (name) => readIfThere(join(MEMORY_DIR, name, "state"))?.trim() === state,
  );
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
