/** The QMP commands Hearth uses and their arguments. Source: QEMU's QAPI schema (qapi/*.json). */

type Arguments = Readonly<Record<string, unknown>>;

export interface QmpCommands {
  qmp_capabilities: { arguments: Arguments };
  "query-status": { arguments: Arguments };
  "query-version": { arguments: Arguments };
  "query-hotpluggable-cpus": { arguments: Arguments };
  "query-chardev": { arguments: Arguments };
  stop: { arguments: Arguments };
  cont: { arguments: Arguments };
  quit: { arguments: Arguments };
  "object-add": { arguments: { readonly "qom-type": string; readonly id: string } & Arguments };
  "object-del": { arguments: { readonly id: string } };
  device_add: { arguments: { readonly driver: string; readonly id: string } & Arguments };
  device_del: { arguments: { readonly id: string } };
  getfd: { arguments: { readonly fdname: string } };
  netdev_add: { arguments: { readonly type: string; readonly id: string } & Arguments };
  netdev_del: { arguments: { readonly id: string } };
  "blockdev-add": { arguments: Arguments };
  "blockdev-del": { arguments: { readonly "node-name": string } };
  "chardev-add": { arguments: Arguments };
  "migrate-set-capabilities": { arguments: Arguments };
  migrate: { arguments: { readonly uri: string } };
  "query-migrate": { arguments: Arguments };
}
