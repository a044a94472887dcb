/**
 * One native thread that waits in epoll_wait(2) and writes what became ready to a socket, which Bun's event loop reads.
 *
 * Bun can wait for sockets only: pipes block a thread of its pool, a pty master fails with ESPIPE, a pidfd cannot be
 * waited for at all.
 */
import { asFd, type Fd, type OwnedFd } from "./fd.ts";
import { check, lastErrno, lazyLibc, struct } from "./libc.ts";
import { NativeProgram } from "./native-thread.ts";

/** Source: struct epoll_event is packed on x86_64: u32 events, u64 data. */
export const EPOLL_EVENT_BYTES = 12;
const EVENTS_PER_WAIT_MAX = 64;

/** Layout of the page that the thread works on. */
const STATE_EPOLL_FD = 0;
const STATE_SOCKET_FD = 4;
const STATE_EVENTS = 64;

/** void *wait(struct state *state): System V calling convention, position independent. */
const CODE = new Uint8Array([
  0x53, //                                     push rbx
  ...[0x48, 0x89, 0xfb], //                    mov  rbx, rdi              state
  // wait:
  ...[0x8b, 0x3b], //                          mov  edi, [rbx]            epoll fd
  ...[0x48, 0x8d, 0x73, STATE_EVENTS], //      lea  rsi, [rbx + 64]       events
  ...[0xba, EVENTS_PER_WAIT_MAX, 0, 0, 0], //  mov  edx, 64
  ...[0x49, 0xc7, 0xc2, 255, 255, 255, 255], // mov r10, -1               no timeout
  ...[0xb8, 232, 0, 0, 0], //                  mov  eax, 232              epoll_wait
  ...[0x0f, 0x05], //                          syscall
  ...[0x83, 0xf8, 0xfc], //                    cmp  eax, -4               EINTR: wait again
  ...[0x74, 0xe2], //                          je   wait
  ...[0x85, 0xc0], //                          test eax, eax
  ...[0x7e, 0x17], //                          jle  done                  the epoll fd is gone
  ...[0x6b, 0xd0, EPOLL_EVENT_BYTES], //       imul edx, eax, 12
  ...[0x8b, 0x7b, STATE_SOCKET_FD], //         mov  edi, [rbx + 4]
  ...[0x48, 0x8d, 0x73, STATE_EVENTS], //      lea  rsi, [rbx + 64]
  ...[0xb8, 1, 0, 0, 0], //                    mov  eax, 1                write
  ...[0x0f, 0x05], //                          syscall
  ...[0x85, 0xc0], //                          test eax, eax
  ...[0x7e, 0x02], //                          jle  done                  the socket is gone
  ...[0xeb, 0xc7], //                          jmp  wait
  // done:
  ...[0x31, 0xc0], //                          xor  eax, eax
  0x5b, //                                     pop  rbx
  0xc3, //                                     ret
]);

const libc = lazyLibc({
  epoll_create1: { args: ["i32"], returns: "i32" },
  epoll_ctl: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
});

/** A new epoll set, O_CLOEXEC. */
export function createEpoll(): Fd {
  const EPOLL_CLOEXEC = 0o2000000;
  return asFd(check(libc().epoll_create1(EPOLL_CLOEXEC), "make epoll set"));
}

export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;

/** Changes an epoll set. `token` comes back with every event. Returns the errno's name instead of throwing. */
export function epollControl(epoll: Fd, operation: number, fd: Fd, events: number, token: number): string | undefined {
  const { bytes, view } = struct(EPOLL_EVENT_BYTES);
  view.setUint32(0, events, true);
  view.setBigUint64(4, BigInt(token), true);
  return libc().epoll_ctl(epoll, operation, fd, bytes) < 0 ? lastErrno() : undefined;
}

/**
 * Starts the thread: from now on each batch of events of `epoll` arrives on the other end of `socket` as packed
 * structs. It owns both for the rest of the process and ends when either is closed. `socket` must be blocking.
 */
export function startPollThread(epoll: Fd, socket: OwnedFd): void {
  const program = new NativeProgram(CODE, "poll thread");
  program.state.setInt32(STATE_EPOLL_FD, epoll, true);
  program.state.setInt32(STATE_SOCKET_FD, socket.release(), true);
  program.start();
}
