/** The hooks and the process of a recorded container, parsed when a command needs them. */
import type { ContainerRecord } from "./container-record.ts";
import { type Hooks, type Process, parseHooks, parseProcess } from "./spec.ts";

export function hooksOf(record: ContainerRecord): Hooks {
  return parseHooks(record.hooksJson, `hooks of container ${record.id}`);
}

export function processOf(record: ContainerRecord): Process {
  return parseProcess(record.processJson, `process of container ${record.id}`);
}
