/** A directory of a test's own, short enough for unix sockets, removed when it is disposed of. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Scratch extends Disposable {
  readonly dir: string;
  path(name: string): string;
}

export function scratch(): Scratch {
  const dir = mkdtempSync(join(tmpdir(), "hearth-"));
  return {
    dir,
    path: (name) => join(dir, name),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}
