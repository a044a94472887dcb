/** A program in a terminal as a person has it: tmux, its keys and what it shows. */
import { join } from "node:path";
import { mustRunProgram, type ProgramResult } from "./program.ts";

const TIMEOUT_MS = 60_000;

export interface TmuxOptions {
  readonly columns: number;
  readonly rows: number;
  /** For a shell. */
  readonly command: string;
}

export interface Tmux extends AsyncDisposable {
  /** Resolves when the text was shown after what was waited for before. */
  until(text: string): Promise<void>;
  type(text: string): Promise<void>;
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** Resolves when a list of processes has the command. */
  untilRunning(command: string, list: () => Promise<ProgramResult>): Promise<void>;
}

/** A server of its own, with its socket in `dir`. */
export async function startTmux(dir: string, { columns, rows, command }: TmuxOptions): Promise<Tmux> {
  const socket = join(dir, "tmux.sock");
  const output = join(dir, "tmux.output");
  const env = { TERM: "xterm", HOME: dir, LANG: "C.UTF-8" };
  const tmux = (...args: readonly string[]) =>
    mustRunProgram(["tmux", "-S", socket, "-f", "/dev/null", ...args], { env });
  await Bun.write(output, "");
  // Nothing runs before its output is watched, and what it showed last stays.
  const wait = (channel: string): string => `tmux -S ${socket} wait-for ${channel}`;
  await tmux("new-session", "-d", "-x", `${columns}`, "-y", `${rows}`, `${wait("go")}; ${command}; ${wait("end")}`);
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => void (await tmux("kill-server").catch(() => undefined)));
  // The pane has every row: a status line would take one.
  await tmux("set-option", "-g", "status", "off");
  await tmux("resize-window", "-x", `${columns}`, "-y", `${rows}`);
  await tmux("pipe-pane", "-o", `cat >>${output}`);
  await tmux("wait-for", "-S", "go");
  let seen = 0;
  const shown = async (): Promise<string> => (await Bun.file(output).text()).slice(seen);
  const waitFor = async (what: string, look: () => Promise<boolean>): Promise<void> => {
    const deadline = performance.now() + TIMEOUT_MS;
    while (!(await look())) {
      if (performance.now() > deadline)
        throw new Error(`${what}: not in time; shown: ${JSON.stringify(await shown())}`);
      await Bun.sleep(20);
    }
  };
  const ended = undo.move();
  return {
    until: (text) =>
      waitFor(text, async () => {
        const at = (await shown()).indexOf(text);
        if (at >= 0) seen += at + text.length;
        return at >= 0;
      }),
    type: async (text) => void (await tmux("send-keys", "-l", text)),
    resize: async (size) => void (await tmux("resize-window", "-x", `${size.columns}`, "-y", `${size.rows}`)),
    untilRunning: (command, list) => waitFor(command, async () => (await list()).stdout.includes(command)),
    [Symbol.asyncDispose]: () => ended.disposeAsync(),
  };
}
