/**
 * Structured log: events with fields, one line each. error = somebody must act, warn = degraded, info = life cycle,
 * debug = protocol. Never writes to stdout; uses write(2) directly because the process streams cost 8 ms to open.
 */
import { writeSync } from "node:fs";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFormat = "text" | "json";
export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** A log whose every line carries these fields too. */
  with(fields: LogFields): Log;
}

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: LogFormat;
  /** Open file descriptor; the caller owns it. Default 2. */
  readonly fd?: number;
  readonly now?: () => Date;
}

export function createLog(options: LogOptions, base: LogFields = {}): Log {
  const threshold = LOG_LEVELS.indexOf(options.level);
  const now = options.now ?? (() => new Date());
  const emit = (level: LogLevel, event: string, fields: LogFields = {}): void => {
    if (LOG_LEVELS.indexOf(level) < threshold) return;
    const line = formatLine(options.format, now(), level, event, { ...base, ...fields });
    try {
      writeSync(options.fd ?? 2, `${line}\n`);
    } catch {
      // A log that cannot be written (closed pipe, full disk) must never fail the operation it describes.
    }
  };
  return {
    debug: (event, fields) => emit("debug", event, fields),
    info: (event, fields) => emit("info", event, fields),
    warn: (event, fields) => emit("warn", event, fields),
    error: (event, fields) => emit("error", event, fields),
    with: (fields) => createLog(options, { ...base, ...fields }),
  };
}

/** JSON lines use runc's keys (`level`, `msg`, `time`), which containerd's shim reads. */
function formatLine(format: LogFormat, time: Date, level: LogLevel, event: string, fields: LogFields): string {
  if (format === "json") {
    return JSON.stringify({
      ...fields,
      level: level === "warn" ? "warning" : level,
      msg: event,
      time: time.toISOString(),
    });
  }
  let line = `time="${time.toISOString()}" level=${level === "warn" ? "warning" : level} msg=${JSON.stringify(event)}`;
  for (const [key, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    line += ` ${key}=${typeof value === "string" && /[\s"=]/.test(value) ? JSON.stringify(value) : String(value)}`;
  }
  return line;
}

/** A log that drops everything: the default where a caller passes none. */
export const silentLog: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  with: () => silentLog,
};
