/** Pseudo-terminals: making a pair, window size, raw mode, controlling terminal. */
import { HearthError, SystemError } from "../errors.ts";
import { asFd, dup, type Fd, isOpen, O_CLOEXEC, O_NOCTTY, O_RDWR, OwnedFd, openFd } from "./fd.ts";
import { check, lastErrno, lazyLibc, struct } from "./libc.ts";

/** Source: asm-generic/ioctls.h, for x86_64. */
const TIOCSCTTY = 0x540en;
const TIOCGWINSZ = 0x5413n;
const TIOCSWINSZ = 0x5414n;
const TIOCGPTN = 0x80045430n;
const TIOCSPTLCK = 0x40045431n;
/** Opens the terminal side from its master: works in any mount namespace, whatever is mounted on /dev/pts. */
const TIOCGPTPEER = 0x5441n;
const TCSANOW = 0;
/** Source: struct termios of glibc on x86_64: 60 bytes. */
const TERMIOS_BYTES = 60;

const libc = lazyLibc({
  posix_openpt: { args: ["i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  tcgetattr: { args: ["i32", "ptr"], returns: "i32" },
  tcsetattr: { args: ["i32", "i32", "ptr"], returns: "i32" },
  cfmakeraw: { args: ["ptr"], returns: "void" },
  isatty: { args: ["i32"], returns: "i32" },
  setsid: { args: [], returns: "i32" },
});
const numberLibc = lazyLibc({ ioctl: { args: ["i32", "u64", "u64"], returns: "i32" } });

export interface Pty {
  /** The side of whoever plays the terminal. */
  readonly master: OwnedFd;
  /** The side that programs have as their terminal. */
  readonly terminal: OwnedFd;
  /** Name of the terminal side in the devpts it was made in: "/dev/pts/3". */
  readonly path: string;
}

/** A new pseudo-terminal, both sides O_CLOEXEC; it does not become anybody's controlling terminal. */
export function openPty(): Pty {
  const master = new OwnedFd(asFd(check(libc().posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "open pseudo-terminal")));
  try {
    check(libc().ioctl(master.fd, TIOCSPTLCK, new Int32Array(1)), "unlock pseudo-terminal");
    const flags = BigInt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    const terminal = check(numberLibc().ioctl(master.fd, TIOCGPTPEER, flags), "open terminal of pseudo-terminal");
    return { master, terminal: new OwnedFd(asFd(terminal)), path: ptyPath(master.fd) };
  } catch (thrown) {
    master.close();
    throw thrown;
  }
}

/** Name of the terminal that belongs to a master. */
export function ptyPath(master: Fd): string {
  const number = new Uint32Array(1);
  check(libc().ioctl(master, TIOCGPTN, number), "get number of pseudo-terminal");
  return `/dev/pts/${number[0] ?? 0}`;
}

export interface WindowSize {
  /** Characters, 0 to 65535; 0 is "unknown". */
  readonly rows: number;
  readonly columns: number;
}

export function getWindowSize(fd: Fd): WindowSize {
  const { bytes, view } = struct(8);
  check(libc().ioctl(fd, TIOCGWINSZ, bytes), "get window size");
  return { rows: view.getUint16(0, true), columns: view.getUint16(2, true) };
}

/** Sets the size on either side; the foreground process group of the terminal gets SIGWINCH when it changes. */
export function setWindowSize(fd: Fd, size: WindowSize): void {
  for (const count of [size.rows, size.columns]) {
    if (!Number.isInteger(count) || count < 0 || count > 0xffff) {
      throw new HearthError("invalid-argument", `set window size to ${size.rows}x${size.columns}`);
    }
  }
  const { bytes, view } = struct(8);
  view.setUint16(0, size.rows, true);
  view.setUint16(2, size.columns, true);
  check(libc().ioctl(fd, TIOCSWINSZ, bytes), "set window size");
}

export function isTerminal(fd: Fd): boolean {
  return libc().isatty(fd) === 1;
}

/**
 * The terminal that somebody sits at: the first of our standard streams that is one, else the controlling terminal, which
 * is there when all three are redirected too. Undefined where there is none. The caller closes it.
 */
export function ownTerminal(): OwnedFd | undefined {
  const stream = ([2, 1, 0] as const).find((number) => isOpen(number) && isTerminal(asFd(number)));
  if (stream !== undefined) return dup(asFd(stream));
  try {
    return openFd("/dev/tty", O_RDWR);
  } catch (thrown) {
    // ENXIO: no controlling terminal; ENOENT: no such device in this /dev.
    if (thrown instanceof SystemError && ["ENXIO", "ENOENT", "EIO"].includes(thrown.errno)) return undefined;
    throw thrown;
  }
}

/** Puts a terminal back as it was; idempotent, and quiet when the terminal has gone. */
export interface RawMode extends Disposable {
  restore(): void;
}

/** Raw mode: every byte passes unchanged both ways, no echo, no signals from keys. The caller restores it. */
export function makeRaw(fd: Fd): RawMode {
  const kept = keepMode(fd);
  const raw = new Uint8Array(TERMIOS_BYTES);
  check(libc().tcgetattr(fd, raw), "get terminal attributes");
  libc().cfmakeraw(raw);
  check(libc().tcsetattr(fd, TCSANOW, raw), "set terminal to raw mode");
  return kept;
}

/** The mode as it is now, to be restored whatever a child makes of it meanwhile. */
export function keepMode(fd: Fd): RawMode {
  const before = new Uint8Array(TERMIOS_BYTES);
  check(libc().tcgetattr(fd, before), "get terminal attributes");
  let changed = true;
  const restore = (): void => {
    if (!changed) return;
    changed = false;
    if (libc().tcsetattr(fd, TCSANOW, before) >= 0) return;
    const errno = lastErrno();
    if (errno !== "EIO" && errno !== "EBADF" && errno !== "ENOTTY") throw new SystemError(errno, "restore terminal");
  };
  return { restore, [Symbol.dispose]: restore };
}

/** As keepMode, of the terminal that `ownTerminal` finds; undefined where there is none. */
export function keepOwnMode(): RawMode | undefined {
  const terminal = ownTerminal();
  if (terminal === undefined) return undefined;
  const kept = keepMode(terminal.fd);
  const restore = (): void => {
    kept.restore();
    terminal.close();
  };
  return { restore, [Symbol.dispose]: restore };
}

/** Starts a new session without a controlling terminal. A process group leader cannot (EPERM). */
export function newSession(): void {
  check(libc().setsid(), "start session");
}

/** Makes a terminal the controlling one of the calling session leader, which must have none. */
export function setControllingTerminal(fd: Fd): void {
  check(numberLibc().ioctl(fd, TIOCSCTTY, 0n), "set controlling terminal");
}
