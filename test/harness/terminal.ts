/** A program at a terminal, as a person sees it: what it writes can be waited for, what is typed reaches it. */
import { PATH } from "./program.ts";

const WAIT_TIMEOUT_MS = 60_000;

export interface TerminalOptions {
  readonly columns?: number;
  readonly rows?: number;
  readonly env?: Readonly<Record<string, string>>;
}

export class TerminalSession {
  /** All that was shown so far. */
  text = "";
  #seen = 0;
  readonly #looks = new Set<() => void>();
  readonly #child: Bun.Subprocess;
  /** Resolves when all that it ever showed is in `text`. */
  readonly #ended: Promise<void>;
  readonly #argv: readonly string[];

  constructor(argv: readonly string[], options: TerminalOptions = {}) {
    const decoder = new TextDecoder();
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    this.#argv = argv;
    this.#ended = ended;
    this.#child = Bun.spawn([...argv], {
      env: { PATH, TERM: "xterm", ...options.env },
      cwd: "/",
      terminal: {
        cols: options.columns ?? 80,
        rows: options.rows ?? 24,
        data: (_terminal, data) => {
          this.text += decoder.decode(data, { stream: true });
          for (const look of this.#looks) look();
        },
        exit: () => end(),
      },
    });
  }

  type(text: string): void {
    this.#child.terminal?.write(text);
  }

  resize(columns: number, rows: number): void {
    this.#child.terminal?.resize(columns, rows);
  }

  /** Resolves when `text` appears after what was waited for before. */
  async shows(text: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = (): void => {
      const at = this.text.indexOf(text, this.#seen);
      if (at < 0) return;
      this.#seen = at + text.length;
      resolve();
    };
    const fail = (why: string): void => {
      reject(new Error(`${this.#argv.join(" ")}: ${why} before it showed ${JSON.stringify(text)}:\n${this.text}`));
    };
    const timer = setTimeout(() => fail("time ran out"), WAIT_TIMEOUT_MS);
    this.#looks.add(look);
    this.#ended.then(() => fail("it ended"));
    look();
    try {
      await promise;
    } finally {
      this.#looks.delete(look);
      clearTimeout(timer);
    }
  }

  /** Resolves with the exit status. */
  get exited(): Promise<number> {
    return this.#child.exited;
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
    this.#child.terminal?.close();
  }
}
