/** Disks of the host that are plugged into the VM for the mounts of its containers; those that name the same one share it. */
import { assert } from "../errors.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import { type ClaimedDisk, claimDisk, diskNumber } from "../storage/disk.ts";
import { inMountNamespace } from "../sys/namespace.ts";

/** One use of a disk; the last one to be given back unplugs it. */
export interface PluggedDisk {
  /** As the agent finds it. */
  readonly pciPath: string;
  /** Nothing in the guest may have it mounted any more. Idempotent. */
  release(): Promise<void>;
}

interface Entry {
  readonly claim: ClaimedDisk;
  readonly id: string;
  readonly pciPath: string;
  users: number;
}

export class VmDisks implements Disposable {
  readonly #hypervisor: Hypervisor;
  /** By the device's number on the host. */
  readonly #entries = new Map<string, Entry>();
  #nextIndex = 0;
  /** One at a time: a disk that is going is not yet free to come. */
  #turns: Promise<unknown> = Promise.resolve();

  constructor(hypervisor: Hypervisor) {
    this.#hypervisor = hypervisor;
  }

  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /** `mountNamespace`: where the path is looked up; undefined: ours. See claimDisk for errors. */
  plug(path: string, mountNamespace: string | undefined, signal: AbortSignal): Promise<PluggedDisk> {
    return this.#turn(async () => {
      const claimNew = (): { readonly number: string; readonly claim: ClaimedDisk | undefined } => {
        const number = diskNumber(path);
        return { number, claim: this.#entries.has(number) ? undefined : claimDisk(path) };
      };
      const { number, claim } = mountNamespace === undefined ? claimNew() : inMountNamespace(mountNamespace, claimNew);
      if (claim !== undefined) await this.#add(number, claim, signal);
      return this.#use(number);
    });
  }

  async #add(number: string, claim: ClaimedDisk, signal: AbortSignal): Promise<void> {
    using undo = new DisposableStack();
    undo.use(claim);
    const id = `disk${this.#nextIndex++}`;
    const { path, readOnly } = claim;
    const { pciPath } = await this.#hypervisor.addDevice({ kind: "block", id, path, readOnly, format: "raw" }, signal);
    assert(pciPath !== undefined, "a disk has a place on the PCI bus");
    this.#entries.set(number, { claim, id, pciPath, users: 0 });
    undo.move();
  }

  #use(number: string): PluggedDisk {
    const entry = this.#entries.get(number);
    assert(entry !== undefined, "it was added or has been there");
    entry.users++;
    let released: Promise<void> | undefined;
    return {
      pciPath: entry.pciPath,
      release: () => {
        released ??= this.#turn(() => this.#release(number, entry));
        return released;
      },
    };
  }

  /** One that the guest does not let go stays claimed until the VM ends. */
  async #release(number: string, entry: Entry): Promise<void> {
    entry.users--;
    if (entry.users > 0) return;
    await this.#hypervisor.removeDevice(entry.id);
    this.#entries.delete(number);
    entry.claim[Symbol.dispose]();
  }

  #turn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turns.then(work);
    this.#turns = turn.catch(() => undefined);
    return turn;
  }

  /** When QEMU has gone. */
  [Symbol.dispose](): void {
    for (const { claim } of this.#entries.values()) claim[Symbol.dispose]();
    this.#entries.clear();
  }
}
