/** Linux x86_64 signal numbers and names, realtime signals included. */
import { HearthError } from "../errors.ts";

/** Names by number from 1. Source: signal(7), column x86/ARM. */
const SIGNAL_NAMES = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGILL",
  "SIGTRAP",
  "SIGABRT",
  "SIGBUS",
  "SIGFPE",
  "SIGKILL",
  "SIGUSR1",
  "SIGSEGV",
  "SIGUSR2",
  "SIGPIPE",
  "SIGALRM",
  "SIGTERM",
  "SIGSTKFLT",
  "SIGCHLD",
  "SIGCONT",
  "SIGSTOP",
  "SIGTSTP",
  "SIGTTIN",
  "SIGTTOU",
  "SIGURG",
  "SIGXCPU",
  "SIGXFSZ",
  "SIGVTALRM",
  "SIGPROF",
  "SIGWINCH",
  "SIGIO",
  "SIGPWR",
  "SIGSYS",
] as const;

const SIGNAL_NUMBERS: ReadonlyMap<string, number> = new Map(SIGNAL_NAMES.map((name, index) => [name, index + 1]));

/** Other names of the same numbers. Source: signal(7). */
const SIGNAL_ALIASES: Readonly<Record<string, number>> = { SIGIOT: 6, SIGCLD: 17, SIGPOLL: 29, SIGUNUSED: 31 };

/** First realtime signal that a program may use: glibc keeps 32 and 33 for its threads. Source: signal(7). */
export const SIGRTMIN = 34;
export const SIGRTMAX = 64;
export const SIGNAL_NUMBER_MAX = 64;

export const SIGHUP = 1;
export const SIGINT = 2;
export const SIGQUIT = 3;
export const SIGKILL = 9;
/** Of a process that it has ended, as a container's exit status tells. */
export const KILLED_STATUS = 128 + SIGKILL;
export const SIGTERM = 15;
export const SIGCHLD = 17;
export const SIGCONT = 18;
export const SIGSTOP = 19;
export const SIGWINCH = 28;

/** Name of a signal number from 1 to 64: "SIGTERM", "SIGRTMIN+3"; 32 and 33 are "SIG32" and "SIG33". */
export function signalName(number: number): string {
  const name = SIGNAL_NAMES[number - 1];
  if (name !== undefined) return name;
  if (number === SIGRTMIN) return "SIGRTMIN";
  if (number === SIGRTMAX) return "SIGRTMAX";
  if (number > SIGRTMIN && number < SIGRTMAX) return `SIGRTMIN+${number - SIGRTMIN}`;
  return `SIG${number}`;
}

/**
 * Number of a signal written as "SIGTERM", "term", "15", "SIGRTMIN+3" or "RTMAX-1".
 * Anything else, zero included, is an invalid-argument error.
 */
export function parseSignal(text: string): number {
  const number = signalNumber(text.trim().toUpperCase());
  if (number === undefined) throw new HearthError("invalid-argument", `unknown signal ${JSON.stringify(text)}`);
  return number;
}

function signalNumber(text: string): number | undefined {
  if (/^\d{1,3}$/.test(text)) {
    const number = Number(text);
    return number >= 1 && number <= SIGNAL_NUMBER_MAX ? number : undefined;
  }
  const name = text.startsWith("SIG") ? text : `SIG${text}`;
  const realtime = /^SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realtime !== null) return realtimeNumber(realtime[1] === "MIN", realtime[2], realtime[3]);
  return SIGNAL_NUMBERS.get(name) ?? SIGNAL_ALIASES[name];
}

function realtimeNumber(fromMin: boolean, sign: string | undefined, digits: string | undefined): number | undefined {
  const offset = digits === undefined ? 0 : Number(digits);
  if (offset !== 0 && sign !== (fromMin ? "+" : "-")) return undefined;
  const number = fromMin ? SIGRTMIN + offset : SIGRTMAX - offset;
  return number >= SIGRTMIN && number <= SIGRTMAX ? number : undefined;
}
