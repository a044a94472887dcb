/** CPU quota and period, which cgroup v2 keeps in one file: who changes one of them means the other to stay. */

type Whole = number | bigint;

export interface CpuTime {
  readonly quota?: Whole | undefined;
  readonly period?: Whole | undefined;
}

/**
 * `cpu` with quota and period both, when it has one of them: the other is what `cpu.max` holds now ("50000 100000", or
 * "max 100000", which is a quota of -1). 0 means "not given". Source: OCI runtime spec, config-linux.md, cpu.
 */
export function completeCpuMax<T extends CpuTime>(cpu: T, cpuMax: string): T {
  if (Boolean(cpu.quota) === Boolean(cpu.period)) return cpu;
  const [quota = "", period = ""] = cpuMax.trim().split(" ");
  const current = { quota: quota === "max" ? -1 : Number(quota), period: Number(period) };
  if (Number.isNaN(current.quota) || !(current.period > 0)) return cpu;
  return { ...cpu, quota: cpu.quota || current.quota, period: cpu.period || current.period };
}
