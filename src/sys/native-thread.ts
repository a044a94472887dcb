/**
 * Native threads that run a few bytes of our own machine code, for calls of the kernel that block.
 *
 * Such a thread must not touch the JavaScript heap, and calls the kernel only: it costs two pages, where a Worker costs 9 MiB.
 */
import type { Pointer } from "bun:ffi";
import { mapCode, mapPages } from "./code-page.ts";
import { checkReturned, lazyLibc } from "./libc.ts";

const SIG_BLOCK = 0;
const SIG_SETMASK = 2;
const SIGSET_BYTES = 128;
const PTHREAD_ATTR_BYTES = 56;
const PTHREAD_CREATE_DETACHED = 1;
/** Address space only; the thread touches one page of it. Thread-local storage of the executable has to fit too. */
const STACK_BYTES = 256 * 1024;

const libc = lazyLibc({
  pthread_attr_init: { args: ["ptr"], returns: "i32" },
  pthread_attr_setstacksize: { args: ["ptr", "u64"], returns: "i32" },
  pthread_attr_setdetachstate: { args: ["ptr", "i32"], returns: "i32" },
  pthread_attr_destroy: { args: ["ptr"], returns: "i32" },
  pthread_create: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "i32" },
  pthread_sigmask: { args: ["i32", "ptr", "ptr"], returns: "i32" },
});

/** What threads run, and a page that all of them work on; both stay for the rest of the process. */
export class NativeProgram {
  readonly #name: string;
  readonly #code: Pointer;
  readonly #state: Pointer;
  readonly state: DataView;

  /** `code`: void *start(void *state), System V calling convention, position independent, at most a page. `name` is for messages. */
  constructor(code: Uint8Array, name: string) {
    this.#name = name;
    this.#code = mapCode(code);
    const { at, bytes } = mapPages(1);
    this.#state = at;
    this.state = new DataView(bytes.buffer);
  }

  /** One more thread. Nobody waits for its end. */
  start(): void {
    const step = `start ${this.#name}`;
    const attributes = new Uint8Array(PTHREAD_ATTR_BYTES);
    checkReturned(libc().pthread_attr_init(attributes), step);
    checkReturned(libc().pthread_attr_setstacksize(attributes, BigInt(STACK_BYTES)), step);
    checkReturned(libc().pthread_attr_setdetachstate(attributes, PTHREAD_CREATE_DETACHED), step);
    withSignalsBlocked(() => {
      const thread = new Uint8Array(8);
      checkReturned(libc().pthread_create(thread, attributes, this.#code, this.#state), step);
    });
    libc().pthread_attr_destroy(attributes);
  }
}

/** A thread inherits the signal mask: signals must go to the runtime's own threads, whose handlers expect them. */
function withSignalsBlocked(step: () => void): void {
  const all = new Uint8Array(SIGSET_BYTES).fill(0xff);
  const before = new Uint8Array(SIGSET_BYTES);
  checkReturned(libc().pthread_sigmask(SIG_BLOCK, all, before), "block signals");
  try {
    step();
  } finally {
    checkReturned(libc().pthread_sigmask(SIG_SETMASK, before, null), "restore signals");
  }
}
