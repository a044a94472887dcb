/** Learning of changes to single files, those of cgroups included, and to what a directory holds. */
import { asFd, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { check, cString, lazyLibc } from "./libc.ts";

/** Source: sys/inotify.h. */
const IN_MODIFY = 0x2;
const IN_ATTRIB = 0x4;
const IN_CLOSE_WRITE = 0x8;
const IN_MOVED_FROM = 0x40;
const IN_MOVED_TO = 0x80;
const IN_CREATE = 0x100;
const IN_DELETE = 0x200;
const IN_IGNORED = 0x8000;
const IN_NONBLOCK = 0o4000;
const IN_CLOEXEC = 0o2000000;
const EVENT_HEADER_BYTES = 16;

const libc = lazyLibc({
  inotify_init1: { args: ["i32"], returns: "i32" },
  inotify_add_watch: { args: ["i32", "ptr", "u32"], returns: "i32" },
  inotify_rm_watch: { args: ["i32", "i32"], returns: "i32" },
});

/** Number of one watch; not used again while the object lives. */
export type WatchId = number;

/** Whatever makes a file of the directory another one; not each write to it, but the end of them. */
const IN_ENTRIES = IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE;

/** Watches files for changes of their content, directories for changes of their entries. One `next` at a time. */
export class FileWatcher implements Disposable {
  readonly #reader: FdReader;

  constructor() {
    const fd = check(libc().inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "make file watcher");
    this.#reader = new FdReader(new OwnedFd(asFd(fd)));
  }

  add(path: string): WatchId {
    return check(libc().inotify_add_watch(this.#reader.fd, cString(path), IN_MODIFY), `watch ${path}`);
  }

  /** For entries that come, go, are replaced or written anew. */
  addDirectory(path: string): WatchId {
    return check(libc().inotify_add_watch(this.#reader.fd, cString(path), IN_ENTRIES), `watch directory ${path}`);
  }

  /** Quiet when the file has gone, and its watch with it. */
  remove(id: WatchId): void {
    libc().inotify_rm_watch(this.#reader.fd, id);
  }

  /** Watches whose file changed, at least one. Rejects when disposed or aborted. */
  async next(signal?: AbortSignal): Promise<WatchId[]> {
    for (;;) {
      const bytes = (await this.#reader.read(undefined, signal)) ?? new Uint8Array(0);
      const changed = changedWatches(bytes);
      if (changed.length > 0) return changed;
    }
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }
}

/** Source: struct inotify_event in inotify(7). */
function changedWatches(bytes: Uint8Array): WatchId[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const changed = new Set<WatchId>();
  for (let at = 0; at + EVENT_HEADER_BYTES <= bytes.length; ) {
    const id = view.getInt32(at, true);
    if ((view.getUint32(at + 4, true) & IN_IGNORED) === 0 && id > 0) changed.add(id);
    at += EVENT_HEADER_BYTES + view.getUint32(at + 12, true);
  }
  return [...changed];
}
