/** Executions of chosen files, whoever makes them, that wait until they are let go. Needs CAP_SYS_ADMIN. */

import { SystemError } from "../errors.ts";
import { asFd, closeFd, type Fd, O_CLOEXEC, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { check, cString, lastErrno, lazyLibc, struct } from "./libc.ts";

/** Source: linux/fanotify.h. */
const FAN_CLOEXEC = 0x1;
const FAN_NONBLOCK = 0x2;
const FAN_CLASS_CONTENT = 0x4;
const FAN_MARK_ADD = 0x1;
const FAN_OPEN_EXEC_PERM = 0x40000n;
const FAN_ALLOW = 1;
const EVENT_BYTES = 24;
const RESPONSE_BYTES = 8;
/** Source: asm/fcntl.h. Of the descriptors that come with events. */
const O_LARGEFILE = 0o100000;

const libc = lazyLibc({
  fanotify_init: { args: ["u32", "u32"], returns: "i32" },
  fanotify_mark: { args: ["i32", "u32", "u64", "i32", "ptr"], returns: "i32" },
  write: { args: ["i32", "ptr", "u64"], returns: "i64" },
});

/** A process that is about to execute a file, and sleeps in execve(2). */
export interface HeldExecution {
  readonly pid: number;
  /** Idempotent; quiet when the gate is gone, which lets everybody go. */
  letGo(): void;
}

/** One `next` at a time. Whoever makes one must not itself execute a file that was added. */
export class ExecGate implements Disposable {
  readonly #reader: FdReader;
  #open = true;

  constructor() {
    const flags = FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK;
    const fd = check(libc().fanotify_init(flags, O_LARGEFILE | O_CLOEXEC), "make gate of executions");
    this.#reader = new FdReader(new OwnedFd(asFd(fd)));
  }

  /** `file` may be open as a path alone. What is added is the file, under whatever name. */
  add(file: Fd): void {
    const path = cString(`/proc/self/fd/${file}`);
    const result = libc().fanotify_mark(this.#reader.fd, FAN_MARK_ADD, FAN_OPEN_EXEC_PERM, -1, path);
    check(result, `hold executions of file ${file}`);
  }

  /** At least one. Rejects when disposed. */
  async next(): Promise<HeldExecution[]> {
    for (;;) {
      const held = this.#executions((await this.#reader.read()) ?? new Uint8Array(0));
      if (held.length > 0) return held;
    }
  }

  /** Idempotent. */
  [Symbol.dispose](): void {
    this.#open = false;
    this.#reader.close();
  }

  /** Source: struct fanotify_event_metadata in fanotify(7). */
  #executions(bytes: Uint8Array): HeldExecution[] {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const held: HeldExecution[] = [];
    for (let at = 0; at + EVENT_BYTES <= bytes.length; at += view.getUint32(at, true)) {
      const file = view.getInt32(at + 16, true);
      // The queue has overflown: those were let go.
      if (file < 0) continue;
      held.push(this.#held(asFd(file), view.getInt32(at + 20, true)));
    }
    return held;
  }

  #held(file: Fd, pid: number): HeldExecution {
    let holds = true;
    return {
      pid,
      letGo: () => {
        if (!holds) return;
        holds = false;
        const { bytes, view } = struct(RESPONSE_BYTES);
        view.setInt32(0, file, true);
        view.setUint32(4, FAN_ALLOW, true);
        const written = this.#open ? libc().write(this.#reader.fd, bytes, BigInt(RESPONSE_BYTES)) : 0n;
        const errno = written < 0n ? lastErrno() : undefined;
        closeFd(file);
        // The process was killed meanwhile.
        if (errno !== undefined && errno !== "ENOENT") throw new SystemError(errno, `let process ${pid} execute`);
      },
    };
  }
}
