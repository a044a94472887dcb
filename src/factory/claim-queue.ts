/** Claims that wait for an idle slot: bounded, first come first served, each with its own way out. */
import { HearthError } from "../errors.ts";

interface Claim<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export class ClaimQueue<T> {
  /** Claims that may wait; those that wait already stay when it shrinks. */
  lengthMax: number;
  readonly #claims: Claim<T>[] = [];

  constructor(lengthMax: number) {
    this.lengthMax = lengthMax;
  }

  get length(): number {
    return this.#claims.length;
  }

  /**
   * Resolves with what `serve` gives it. "resource-exhausted" at once when the queue is full; the signal's reason when it
   * aborts. `atFront`: it was at the front before, what it was given was no good; the bound does not count for it.
   */
  wait(signal: AbortSignal, atFront: boolean): Promise<T> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (!atFront && this.#claims.length >= this.lengthMax) {
      return Promise.reject(
        new HearthError("resource-exhausted", `claim pooled vm: ${this.#claims.length} claims are waiting already`),
      );
    }
    return new Promise<T>((resolve, reject) => {
      const onAbort = (): void => {
        const at = this.#claims.indexOf(claim);
        if (at >= 0) this.#claims.splice(at, 1);
        reject(signal.reason);
      };
      const claim: Claim<T> = {
        resolve: (value) => {
          signal.removeEventListener("abort", onAbort);
          resolve(value);
        },
        reject: (error) => {
          signal.removeEventListener("abort", onAbort);
          reject(error);
        },
      };
      signal.addEventListener("abort", onAbort, { once: true });
      if (atFront) this.#claims.unshift(claim);
      else this.#claims.push(claim);
    });
  }

  /** Gives the value to the claim that waits longest; false when none does. */
  serve(value: T): boolean {
    const claim = this.#claims.shift();
    claim?.resolve(value);
    return claim !== undefined;
  }

  rejectAll(error: HearthError): void {
    for (const claim of this.#claims.splice(0)) claim.reject(error);
  }
}
