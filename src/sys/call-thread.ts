/**
 * Calls of the kernel in native threads: those that may sleep where neither O_NONBLOCK nor a signal helps.
 *
 * Threads take requests from one socket and write what the calls returned to it. A call that sleeps keeps its thread, and no
 * other waits for it: there are as many threads as there have been calls at once, up to CALL_THREADS_MAX.
 */
import { ptr } from "bun:ffi";
import { HearthError } from "../errors.ts";
import { CALL_THREADS_MAX } from "../limits.ts";
import { type Fd, type OwnedFd, socketpair } from "./fd.ts";
import { check, errnoName, lazyLibc, struct } from "./libc.ts";
import { NativeProgram } from "./native-thread.ts";
import { RecordSocket } from "./record-socket.ts";

/** Source: asm/unistd_64.h. */
const NUMBERS = { read: 0, write: 1, close: 3 } as const;
export type ThreadCall = keyof typeof NUMBERS;

/** Layout of a request: the call's number, three arguments, a token. Each has 64 bits. */
const REQUEST_BYTES = 40;
/** And of an answer: what the call returned, the token. */
const ANSWER_BYTES = 16;

/** void *serve(int *socket) */
const CODE = new Uint8Array([
  0x53, //                                     push rbx
  ...[0x48, 0x83, 0xec, 48], //                sub  rsp, 48
  ...[0x48, 0x89, 0xfb], //                    mov  rbx, rdi
  // wait:
  ...[0x8b, 0x3b], //                          mov  edi, [rbx]            socket
  ...[0x48, 0x89, 0xe6], //                    mov  rsi, rsp
  ...[0xba, REQUEST_BYTES, 0, 0, 0], //        mov  edx, 40
  ...[0x31, 0xc0], //                          xor  eax, eax              read
  ...[0x0f, 0x05], //                          syscall
  ...[0x83, 0xf8, 0xfc], //                    cmp  eax, -4               EINTR: wait again
  ...[0x74, 0xed], //                          je   wait
  ...[0x83, 0xf8, REQUEST_BYTES], //           cmp  eax, 40
  ...[0x75, 0x32], //                          jne  done                  the socket is gone
  ...[0x48, 0x8b, 0x04, 0x24], //              mov  rax, [rsp]            the call
  ...[0x48, 0x8b, 0x7c, 0x24, 8], //           mov  rdi, [rsp + 8]
  ...[0x48, 0x8b, 0x74, 0x24, 16], //          mov  rsi, [rsp + 16]
  ...[0x48, 0x8b, 0x54, 0x24, 24], //          mov  rdx, [rsp + 24]
  ...[0x0f, 0x05], //                          syscall
  ...[0x48, 0x89, 0x44, 0x24, 24], //          mov  [rsp + 24], rax       before the token
  ...[0x8b, 0x3b], //                          mov  edi, [rbx]
  ...[0x48, 0x8d, 0x74, 0x24, 24], //          lea  rsi, [rsp + 24]
  ...[0xba, ANSWER_BYTES, 0, 0, 0], //         mov  edx, 16
  ...[0xb8, 1, 0, 0, 0], //                    mov  eax, 1                write
  ...[0x0f, 0x05], //                          syscall
  ...[0x83, 0xf8, ANSWER_BYTES], //            cmp  eax, 16
  ...[0x74, 0xb6], //                          je   wait
  // done:
  ...[0x48, 0x83, 0xc4, 48], //                add  rsp, 48
  ...[0x31, 0xc0], //                          xor  eax, eax
  0x5b, //                                     pop  rbx
  0xc3, //                                     ret
]);

const libc = lazyLibc({ write: { args: ["i32", "ptr", "u64"], returns: "i64" } });

interface Request {
  readonly call: ThreadCall;
  readonly fd: Fd;
  /** Kept here until the kernel is done with it. */
  readonly bytes: Uint8Array | undefined;
  readonly resolve: (returned: number) => void;
  readonly reject: (error: unknown) => void;
}

/** The event loop's side of the threads. */
class CallThreads {
  readonly #program = new NativeProgram(CODE, "call thread");
  readonly #socket: RecordSocket;
  /** Threads have them, or will at once. */
  readonly #running = new Map<number, Request>();
  readonly #waiting: Request[] = [];
  #threads = 0;
  #nextToken = 1;

  constructor() {
    const [ours, threads] = socketpair();
    this.#program.state.setInt32(0, threads.release(), true);
    this.#socket = new RecordSocket(
      ours,
      ANSWER_BYTES,
      (view, at) => this.#answered(view, at),
      () => this.#lost(),
    );
  }

  run(request: Request): void {
    this.#socket.countWaits(1);
    this.#waiting.push(request);
    this.#send();
  }

  #send(): void {
    while (this.#waiting.length > 0 && this.#hasThread()) {
      const request = this.#waiting.shift();
      if (request === undefined) return;
      const token = this.#nextToken;
      this.#nextToken = (token + 1) % 2 ** 32;
      this.#running.set(token, request);
      const written = libc().write(this.#socket.fd, packed(request, token), BigInt(REQUEST_BYTES));
      check(Number(written), `ask call thread to ${request.call}`);
    }
  }

  /** For one call more; without one it waits for another to return. */
  #hasThread(): boolean {
    if (this.#running.size < this.#threads) return true;
    if (this.#threads >= CALL_THREADS_MAX) return false;
    try {
      this.#program.start();
    } catch (thrown) {
      if (this.#threads === 0) throw thrown;
      return false;
    }
    this.#threads++;
    return true;
  }

  #answered(view: DataView, at: number): void {
    const token = view.getUint32(at + 8, true);
    const request = this.#running.get(token);
    this.#running.delete(token);
    this.#socket.countWaits(-1);
    this.#send();
    // None of these calls returns more than an i32: no buffer is that long.
    request?.resolve(view.getInt32(at, true));
  }

  /** Cannot happen while the process lives: the threads hold the other end. Waiting for ever would hide it. */
  #lost(): void {
    const error = new HearthError("internal", "call threads ended");
    for (const request of [...this.#running.values(), ...this.#waiting]) request.reject(error);
  }
}

/** Without BigInts, as in readiness.ts. */
function packed({ call, fd, bytes }: Request, token: number): Uint8Array {
  const { bytes: request, view } = struct(REQUEST_BYTES);
  const address = bytes === undefined ? 0 : ptr(bytes);
  view.setUint32(0, NUMBERS[call], true);
  view.setUint32(8, fd, true);
  view.setUint32(16, address % 2 ** 32, true);
  view.setUint32(20, Math.floor(address / 2 ** 32), true);
  view.setUint32(24, bytes?.length ?? 0, true);
  view.setUint32(32, token, true);
  return request;
}

let callThreads: CallThreads | undefined;

/**
 * What the call returns, however long that takes: an error as the negative errno (see `threadCallErrno`). `bytes` is read
 * or written meanwhile, and `fd` must not be closed.
 */
export function callInThread(call: ThreadCall, fd: Fd, bytes?: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    callThreads ??= new CallThreads();
    callThreads.run({ call, fd, bytes, resolve, reject });
  });
}

/** The errno's name; undefined for what is no error. */
export function threadCallErrno(returned: number): string | undefined {
  return returned < 0 ? errnoName(-returned) : undefined;
}

/** Closes a descriptor whose last close may sleep. The number is free some time after. Idempotent. */
export function closeInThread(owned: OwnedFd): void {
  if (owned.isOpen) void callInThread("close", owned.release());
}
