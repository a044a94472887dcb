/** Lists of a container's processes: their pids as JSON, or a table with the columns of `ps -ef` or `ps x`, read from /proc. */
import { readFileSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";

/** Clock ticks per second in /proc, the same on every x86 kernel. Source: proc(5), sysconf(_SC_CLK_TCK). */
const TICKS_PER_SECOND = 100;

export interface ProcessRow {
  readonly uid: number;
  readonly pid: number;
  readonly ppid: number;
  /** Device number of the controlling terminal, 0 for none. */
  readonly tty: number;
  /** One letter: running, sleeping, ... Source: proc(5), /proc/pid/stat. */
  readonly state: string;
  /** Clock ticks of user and system time. */
  readonly cpuTicks: number;
  /** Clock ticks after boot. */
  readonly startTicks: number;
  readonly command: string;
}

/** `format` "json" or "table"; `args` are ps's own: `-e`, `-f` and their like for the one table, with an x for the other. */
export function processList(pids: readonly number[], format: string, args: readonly string[]): Uint8Array {
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  if (format === "json") return encode(JSON.stringify(pids));
  if (format !== "" && format !== "table") {
    throw new HearthError("invalid-argument", `list processes: unknown format "${format}"`);
  }
  const other = args.find((arg) => !/^-?[aefx]+$/.test(arg));
  if (other !== undefined) throw new HearthError("unimplemented", `list processes: ps argument "${other}"`);
  const rows = pids.flatMap((pid) => readRow(pid) ?? []);
  const short = args.some((arg) => arg.includes("x"));
  return encode(short ? formatShortTable(rows) : formatTable(rows, new Date(), bootTimeMs()));
}

export function formatTable(rows: readonly ProcessRow[], now: Date, bootMs: number): string {
  const lines = [["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]];
  for (const row of rows) {
    const startMs = bootMs + (row.startTicks * 1000) / TICKS_PER_SECOND;
    const aliveSeconds = Math.max((now.getTime() - startMs) / 1000, 0);
    const cpuSeconds = row.cpuTicks / TICKS_PER_SECOND;
    const load = aliveSeconds === 0 ? 0 : Math.min(Math.floor((100 * cpuSeconds) / aliveSeconds), 99);
    lines.push([
      // The one name that the guest knows; those of a container are its own.
      row.uid === 0 ? "root" : String(row.uid),
      String(row.pid),
      String(row.ppid),
      String(load),
      startedAt(new Date(startMs), now),
      terminalName(row.tty),
      clock(Math.floor(cpuSeconds)),
      row.command,
    ]);
  }
  return aligned(lines);
}

/** As `ps x` has it. */
export function formatShortTable(rows: readonly ProcessRow[]): string {
  const lines = [["PID", "TTY", "STAT", "TIME", "COMMAND"]];
  for (const { pid, tty, state, cpuTicks, command } of rows) {
    const seconds = Math.floor(cpuTicks / TICKS_PER_SECOND);
    const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    lines.push([String(pid), terminalName(tty), state, time, command]);
  }
  // procps begins with a pid of seven characters.
  return aligned(lines.map(([pid = "", ...cells]) => [pid.padStart(7), ...cells]));
}

const LEFT_ALIGNED = new Set(["UID", "TTY", "STAT"]);

/** The first line has the titles; the last column is as wide as it is. */
function aligned(lines: readonly (readonly string[])[]): string {
  const titles = lines[0] ?? [];
  const widths = titles.map((_title, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const padded = (cell: string, column: number): string => {
    if (column === titles.length - 1) return cell;
    const width = widths[column] ?? 0;
    return LEFT_ALIGNED.has(titles[column] ?? "") ? cell.padEnd(width) : cell.padStart(width);
  };
  return lines.map((line) => `${line.map(padded).join(" ")}\n`).join("");
}

/** "09:30" for today, "Nov23" for earlier. */
function startedAt(start: Date, now: Date): string {
  if (start.toDateString() === now.toDateString()) return start.toTimeString().slice(0, 5);
  const [, month = "", day = ""] = start.toDateString().split(" ");
  return `${month}${day}`;
}

/** Majors 136 to 143 are the terminals in /dev/pts. Source: Documentation/admin-guide/devices.txt. */
function terminalName(device: number): string {
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  if (device === 0) return "?";
  if (major >= 136 && major <= 143) return `pts/${(major - 136) * 256 + minor}`;
  return major === 5 && minor === 1 ? "console" : `${major}:${minor}`;
}

function clock(seconds: number): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

/** Undefined when the process has gone meanwhile. */
function readRow(pid: number): ProcessRow | undefined {
  let stat: string;
  let status: string;
  let cmdline: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    status = readFileSync(`/proc/${pid}/status`, "utf8");
    cmdline = readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return undefined;
  }
  const close = stat.lastIndexOf(")");
  const fields = stat.slice(close + 2).split(" ");
  const at = (index: number): number => Number(fields[index] ?? 0);
  const name = stat.slice(stat.indexOf("(") + 1, close);
  const words = cmdline.replace(/\0+$/, "").replaceAll("\0", " ");
  return {
    uid: Number(/^Uid:\s+\d+\s+(\d+)/m.exec(status)?.[1] ?? 0),
    pid,
    ppid: at(1),
    tty: at(4),
    state: fields[0] ?? "?",
    cpuTicks: at(11) + at(12),
    startTicks: at(19),
    // A line break in an argument would make two rows of one.
    command: (words === "" ? `[${name}]` : words).replaceAll(/[\r\n]/g, " "),
  };
}

function bootTimeMs(): number {
  try {
    return Number(/^btime (\d+)$/m.exec(readFileSync("/proc/stat", "utf8"))?.[1] ?? 0) * 1000;
  } catch (thrown) {
    throw toHearthError(thrown, "read /proc/stat");
  }
}
