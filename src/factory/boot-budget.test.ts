import { expect, test } from "bun:test";
import { BootBudget, type Booter } from "./boot-budget.ts";

/** A shape whose boots end when told. */
function shape(memoryMib: number, number: number, waiting = 0) {
  const ends: (() => void)[] = [];
  const booter: Booter & { ends: typeof ends; readonly held: number } = {
    memoryMib,
    ends,
    ending: 0,
    get held() {
      return ends.length;
    },
    get need() {
      return ends.length < number ? waiting + (number - ends.length) / number : undefined;
    },
    boot() {
      const { promise, resolve } = Promise.withResolvers<void>();
      ends.push(resolve);
      return promise;
    },
  };
  return booter;
}

test("never more boots at once than allowed; each that ends lets the next begin", async () => {
  const one = shape(100, 3);
  const budget = new BootBudget({ bootsAtOnce: 2, memoryMaxMib: 0 });
  budget.set({ bootsAtOnce: 2, memoryMaxMib: 0 }, [one]);
  budget.pump();
  expect(one.held).toBe(2);
  one.ends[0]?.();
  await Promise.resolve();
  await Promise.resolve();
  expect(one.held).toBe(3);
});

test("never more memory than allowed; a shape that does not fit holds up no smaller one", () => {
  const large = shape(800, 2);
  const small = shape(200, 2);
  const limits = { bootsAtOnce: 9, memoryMaxMib: 1100 };
  const budget = new BootBudget(limits);
  budget.set(limits, [large, small]);
  budget.pump();
  expect([large.held, small.held, budget.memoryMib, budget.excessMib]).toEqual([1, 1, 1000, 0]);
  budget.set({ bootsAtOnce: 9, memoryMaxMib: 900 }, [large, small]);
  expect(budget.excessMib).toBe(100);
});

test("the shape that claims wait for goes first, else the one that is emptiest", () => {
  const limits = { bootsAtOnce: 1, memoryMaxMib: 0 };
  const [full, empty, awaited] = [shape(1, 2), shape(1, 2), shape(1, 2, 1)];
  full.ends.push(() => {});
  const budget = new BootBudget(limits);
  budget.set(limits, [full, empty, awaited]);
  budget.pump();
  expect([full.held, empty.held, awaited.held]).toEqual([1, 0, 1]);
  const other = new BootBudget(limits);
  other.set(limits, [full, empty]);
  other.pump();
  expect([full.held, empty.held]).toEqual([1, 1]);
});
