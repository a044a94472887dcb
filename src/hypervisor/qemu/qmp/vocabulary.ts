/** The QMP commands and events Hearth uses: argument types, and parsers of what comes back. Source: QEMU qapi/*.json. */
import * as v from "valibot";
import type { JsonObject, JsonValue } from "./message.ts";

type NoArguments = Readonly<Record<string, never>>;

/** Arguments of each command. Descriptors go by name after `getfd`. */
export interface QmpArguments {
  readonly "query-status": NoArguments;
  readonly "query-kvm": NoArguments;
  readonly "query-chardev": NoArguments;
  readonly "query-hotpluggable-cpus": NoArguments;
  readonly "query-memory-size-summary": NoArguments;
  readonly "query-memory-devices": NoArguments;
  readonly "query-migrate": NoArguments;
  /** For what QMP has no command for; the answer is text. */
  readonly "human-monitor-command": { readonly "command-line": string };
  readonly stop: NoArguments;
  readonly cont: NoArguments;
  readonly quit: NoArguments;
  readonly getfd: { readonly fdname: string };
  readonly closefd: { readonly fdname: string };
  readonly device_add: { readonly driver: string; readonly id: string; readonly [property: string]: JsonValue };
  readonly device_del: { readonly id: string };
  readonly "object-add": { readonly "qom-type": string; readonly id: string; readonly [property: string]: JsonValue };
  readonly "object-del": { readonly id: string };
  readonly "qom-list": { readonly path: string };
  readonly "qom-get": { readonly path: string; readonly property: string };
  readonly netdev_add: { readonly type: string; readonly id: string; readonly [property: string]: JsonValue };
  readonly netdev_del: { readonly id: string };
  readonly "blockdev-add": {
    readonly driver: string;
    readonly "node-name": string;
    readonly [option: string]: JsonValue;
  };
  readonly "blockdev-del": { readonly "node-name": string };
  readonly "chardev-add": { readonly id: string; readonly backend: JsonObject };
  readonly "chardev-remove": { readonly id: string };
  readonly "migrate-set-capabilities": {
    readonly capabilities: readonly { readonly capability: string; readonly state: boolean }[];
  };
  readonly "migrate-set-parameters": { readonly "max-bandwidth": number };
  readonly migrate: { readonly uri: string };
  readonly migrate_cancel: NoArguments;
  readonly "migrate-incoming": { readonly uri: string };
}
export type QmpCommand = keyof QmpArguments;

const nothing = v.looseObject({});
const bytes = v.pipe(v.number(), v.minValue(0));

const MigrationSchema = v.looseObject({
  /** Absent before the first migration. */
  status: v.optional(v.string(), "none"),
  "error-desc": v.optional(v.string()),
});

/** Shape of each command's return value; unknown members pass. */
export const QMP_RETURNS = {
  "query-status": v.looseObject({ status: v.string(), running: v.boolean() }),
  "query-kvm": v.looseObject({ enabled: v.boolean() }),
  "query-chardev": v.array(v.looseObject({ label: v.string(), "frontend-open": v.boolean() })),
  "query-hotpluggable-cpus": v.array(
    v.looseObject({
      type: v.string(),
      /** Address of the slot: socket-id, core-id, thread-id … as device_add takes them. */
      props: v.record(v.string(), v.number()),
      "vcpus-count": v.number(),
      /** Present when the slot is taken. */
      "qom-path": v.optional(v.string()),
    }),
  ),
  "query-memory-size-summary": v.looseObject({ "base-memory": bytes }),
  "query-memory-devices": v.array(
    v.looseObject({
      type: v.string(),
      data: v.looseObject({
        id: v.optional(v.string()),
        size: v.optional(bytes, 0),
        /** Guest address: of a DIMM, and of a virtio memory device. */
        addr: v.optional(bytes),
        memaddr: v.optional(bytes),
      }),
    }),
  ),
  "query-migrate": MigrationSchema,
  "human-monitor-command": v.string(),
  stop: nothing,
  cont: nothing,
  quit: nothing,
  getfd: nothing,
  closefd: nothing,
  device_add: nothing,
  device_del: nothing,
  "object-add": nothing,
  "object-del": nothing,
  "qom-list": v.array(v.looseObject({ name: v.string(), type: v.string() })),
  "qom-get": v.unknown(),
  netdev_add: nothing,
  netdev_del: nothing,
  "blockdev-add": nothing,
  "blockdev-del": nothing,
  "chardev-add": nothing,
  "chardev-remove": nothing,
  "migrate-set-capabilities": nothing,
  "migrate-set-parameters": nothing,
  migrate: nothing,
  migrate_cancel: nothing,
  "migrate-incoming": nothing,
} satisfies { readonly [Command in QmpCommand]: v.GenericSchema };

export type QmpReturn<Command extends QmpCommand> = v.InferOutput<(typeof QMP_RETURNS)[Command]>;

/** Data of the events we act on. */
export const QMP_EVENTS = {
  VSERPORT_CHANGE: v.looseObject({ id: v.string(), open: v.boolean() }),
  /** `device` is absent for a device without id. */
  DEVICE_DELETED: v.looseObject({ device: v.optional(v.string()), path: v.string() }),
  DEVICE_UNPLUG_GUEST_ERROR: v.looseObject({ device: v.optional(v.string()), path: v.string() }),
  MIGRATION: v.looseObject({ status: v.string() }),
  SHUTDOWN: v.looseObject({ guest: v.boolean(), reason: v.string() }),
  STOP: v.looseObject({}),
  RESUME: v.looseObject({}),
} satisfies Readonly<Record<string, v.GenericSchema>>;
export type QmpEventName = keyof typeof QMP_EVENTS;
export type QmpEventData<Name extends QmpEventName> = v.InferOutput<(typeof QMP_EVENTS)[Name]>;
