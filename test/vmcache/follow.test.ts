import { describe, expect, test } from "bun:test";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { HearthError } from "../../src/errors.ts";
import { silentLog } from "../../src/log.ts";
import { FileWatcher } from "../../src/sys/inotify.ts";
import { type FoundSettings, followSettings } from "../../src/vmcache/follow.ts";
import { testSettings } from "../harness/pool-fixture.ts";
import { scratch } from "../harness/scratch.ts";

/** Follows settings that the test decides, and keeps what the listener is told. */
class Followed {
  readonly told: string[] = [];
  readonly #waiters = new Set<() => void>();
  readonly #readOnce = Promise.withResolvers<void>();
  readonly #following: AsyncDisposable;
  hangUp: () => void = () => {};
  number = 1;
  program = "first";
  error: HearthError | undefined;
  programError: HearthError | undefined;

  readonly files: string[];

  private constructor(files: string[]) {
    this.files = files;
    this.#following = followSettings(
      {
        initial: this.#found(),
        read: async () => {
          this.#readOnce.resolve();
          if (this.error !== undefined) throw this.error;
          return this.#found();
        },
        tryProgram: async () => {
          if (this.programError !== undefined) throw this.programError;
        },
        onHangUp: (hangUp) => {
          this.hangUp = hangUp;
          return { [Symbol.dispose]: () => this.#tell("hang-ups are over") };
        },
        log: silentLog,
      },
      {
        changed: ({ shapes }) => this.#tell(`changed ${shapes[0]?.number}`),
        refused: ({ message }) => this.#tell(`refused ${message}`),
        replaced: () => this.#tell("replaced"),
      },
    );
  }

  /** Resolves after the reading that follows the start, so that what is told is told for what comes then. */
  static async start(files: string[]): Promise<Followed> {
    const followed = new Followed(files);
    await followed.#readOnce.promise;
    await new Promise(setImmediate);
    return followed;
  }

  #found(): FoundSettings {
    return { settings: testSettings({ number: this.number }), files: this.files, program: this.program };
  }

  #tell(what: string): void {
    this.told.push(what);
    for (const waiter of this.#waiters) waiter();
  }

  /** Resolves when the listener has been told so many things. */
  seen(count: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = (): void => {
      if (this.told.length >= count) resolve();
    };
    this.#waiters.add(look);
    look();
    return promise;
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#following[Symbol.asyncDispose]();
  }
}

describe("settings are read anew", () => {
  test("when a file is written, replaced, removed or made", async () => {
    using dir = scratch();
    const file = dir.path("config.toml");
    writeFileSync(file, "");
    await using followed = await Followed.start([file]);
    const change = async (number: number, work: () => void) => {
      followed.number = number;
      work();
      await followed.seen(followed.told.length + 1);
    };
    await change(2, () => writeFileSync(file, "x"));
    writeFileSync(dir.path("new"), "");
    await change(3, () => renameSync(dir.path("new"), file));
    await change(4, () => rmSync(file));
    await change(5, () => writeFileSync(file, "y"));
    expect(followed.told).toEqual(["changed 2", "changed 3", "changed 4", "changed 5"]);
  });

  test("when what a link points to changes", async () => {
    using dir = scratch();
    mkdirSync(dir.path("real"));
    writeFileSync(dir.path("real/qemu"), "");
    mkdirSync(dir.path("links"));
    symlinkSync(dir.path("real/qemu"), dir.path("links/qemu"));
    await using followed = await Followed.start([dir.path("links/qemu")]);
    followed.number = 2;
    writeFileSync(dir.path("real/qemu"), "changed");
    await followed.seen(1);
    expect(followed.told).toEqual(["changed 2"]);
  });

  test("at a hang-up, without any change of a file", async () => {
    using dir = scratch();
    await using followed = await Followed.start([dir.path("nowhere/config.toml")]);
    followed.number = 2;
    followed.hangUp();
    await followed.seen(1);
    expect(followed.told).toEqual(["changed 2"]);
  });
});

test("wrong settings are refused, again at each reading, and right ones end that even when they are those before", async () => {
  using dir = scratch();
  await using followed = await Followed.start([dir.path("config.toml")]);
  followed.error = new HearthError("invalid-argument", "no good");
  followed.hangUp();
  await followed.seen(1);
  followed.error = undefined;
  followed.hangUp();
  await followed.seen(2);
  expect(followed.told).toEqual(["refused no good", "changed 1"]);
});

test("a program that was replaced takes over only when it runs", async () => {
  using dir = scratch();
  await using followed = await Followed.start([dir.path("hearth")]);
  followed.program = "second";
  followed.programError = new HearthError("failed-precondition", "half copied");
  writeFileSync(dir.path("hearth"), "half");
  await followed.seen(1);
  followed.programError = undefined;
  writeFileSync(dir.path("hearth"), "whole");
  await followed.seen(2);
  expect(followed.told).toEqual(["refused half copied", "replaced"]);
});

test("after the end nothing is heard", async () => {
  using dir = scratch();
  const followed = await Followed.start([dir.path("config.toml")]);
  await followed[Symbol.asyncDispose]();
  followed.number = 2;
  followed.hangUp();
  writeFileSync(dir.path("config.toml"), "x");
  // Another watch of the same directory that is told proves that the first would have been.
  using watcher = new FileWatcher();
  watcher.addDirectory(dir.dir);
  writeFileSync(dir.path("config.toml"), "y");
  await watcher.next();
  expect(followed.told).toEqual(["hang-ups are over"]);
});
