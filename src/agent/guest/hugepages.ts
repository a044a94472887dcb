/**
 * Huge pages of the guest's kernel, set aside for containers as they come: in a VM nobody else does it.
 * Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { toHearthError } from "../../errors.ts";
import type { Log } from "../../log.ts";
import { isRecord, type JsonRecord, listAt, recordAt } from "./json-record.ts";

const HUGEPAGES_DIR = "/sys/kernel/mm/hugepages";
/** Of a mount that names none. Source: x86-64, CONFIG_HUGETLB_PAGE. */
const PAGE_KIB_DEFAULT = 2048;
/** Engines write the largest multiple of a page for "no limit". */
const BYTES_MAX = 1n << 60n;

/** Bytes by the size of the pages, KiB: the limits of a configuration, and what its hugetlbfs mounts have where there are none. */
export function wantedHugepages(config: JsonRecord): Map<number, bigint> {
  const limits = new Map<number, bigint>();
  for (const limit of listAt(recordAt(recordAt(config, "linux"), "resources"), "hugepageLimits").filter(isRecord)) {
    add(limits, kibOf(String(limit["pageSize"])), bytesOf(String(limit["limit"])));
  }
  const mounts = new Map<number, bigint>();
  for (const mount of listAt(config, "mounts").filter(isRecord)) {
    if (mount["type"] !== "hugetlbfs") continue;
    const options = listAt(mount, "options").map(String);
    const optionOf = (name: string): string | undefined =>
      options.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1);
    const pageSize = optionOf("pagesize");
    add(mounts, pageSize === undefined ? PAGE_KIB_DEFAULT : kibOf(pageSize), bytesOf(optionOf("size") ?? ""));
  }
  return new Map([...mounts, ...limits]);
}

function add(to: Map<number, bigint>, kib: number | undefined, bytes: bigint | undefined): void {
  if (kib === undefined || bytes === undefined || bytes <= 0n || bytes >= BYTES_MAX) return;
  to.set(kib, (to.get(kib) ?? 0n) + bytes);
}

/** "2MB", "1GB", "64KB", "2M", "2097152". */
function kibOf(text: string): number | undefined {
  const bytes = bytesOf(text.replace(/B$/i, ""));
  return bytes === undefined || bytes < 1024n ? undefined : Number(bytes / 1024n);
}

const UNITS: Readonly<Record<string, bigint>> = { "": 1n, k: 1n << 10n, m: 1n << 20n, g: 1n << 30n };

/** As the kernel's memparse; undefined for anything else, a percentage too. */
function bytesOf(text: string): bigint | undefined {
  const [, digits, unit = ""] = /^(\d{1,19})([kmg]?)$/i.exec(text) ?? [];
  const factor = UNITS[unit.toLowerCase()];
  return digits === undefined || factor === undefined ? undefined : BigInt(digits) * factor;
}

/**
 * Sets pages aside until it is disposed of. A limit is no promise: where memory is too short or too scattered there are fewer, which
 * is a warning. Fails for a size of pages that the kernel does not have.
 */
export function reserveHugepages(wanted: ReadonlyMap<number, bigint>, containerId: string, log: Log): Disposable {
  using undo = new DisposableStack();
  for (const [kib, bytes] of wanted) {
    const before = pageCount(kib);
    const count = Number((bytes + BigInt(kib) * 1024n - 1n) / (BigInt(kib) * 1024n));
    setPageCount(kib, before + count);
    const got = pageCount(kib) - before;
    undo.defer(() => setPageCount(kib, Math.max(0, pageCount(kib) - got)));
    if (got < count) log.warn("fewer huge pages than wanted", { container: containerId, kib, count, got });
  }
  return undo.move();
}

function fileOf(kib: number): string {
  return join(HUGEPAGES_DIR, `hugepages-${kib}kB`, "nr_hugepages");
}

function pageCount(kib: number): number {
  try {
    return Number(readFileSync(fileOf(kib), "utf8"));
  } catch (thrown) {
    throw toHearthError(thrown, `use huge pages of ${kib} KiB`);
  }
}

function setPageCount(kib: number, count: number): void {
  try {
    writeFileSync(fileOf(kib), String(count));
  } catch (thrown) {
    throw toHearthError(thrown, `set aside ${count} huge pages of ${kib} KiB`);
  }
}
