/** `hearth env`: what this program is, what it found on this host, and the configuration in force. */

import { loadConfig } from "../config/load.ts";
import { COMMIT, GUEST_KERNEL, OCI_VERSION, VERSION } from "../version.ts";
import { readHostFacts } from "../vm/resolve-config.ts";
import { defineHostCommand } from "./main.ts";
import { formatTable, writeOut } from "./output.ts";
import { refusePositionals } from "./usage-error.ts";

const TEMPLATES_ENABLED =
  "enabled: VMs cloned of one template share memory pages and address layout, a side channel between tenants (CVE-2015-2877)";
const TEMPLATES_OFF = "off: no two VMs share memory that either can write to";

export const command = defineHostCommand({
  flags: { json: { type: "boolean", help: "print JSON" } },
  positionals: "",
  async run(context, flags, positionals) {
    refusePositionals(positionals);
    const config = await loadConfig({ flag: context.configPath, environment: process.env["HEARTH_CONFIG"] });
    const { kvm, cpus, memoryMib, virtiofsd } = readHostFacts();
    const environment = {
      hearth: { version: VERSION, commit: COMMIT, ociVersion: OCI_VERSION, guestKernel: GUEST_KERNEL },
      host: { kvm: kvm.usable ? "usable" : kvm.reason, cpus, memoryMib, virtiofsd: virtiofsd ?? "" },
      security: { templates: config.factory.enable_template ? TEMPLATES_ENABLED : TEMPLATES_OFF },
      config,
    };
    await writeOut(flags.json ? `${JSON.stringify(environment, null, 2)}\n` : formatTable(rowsOf(environment, "")));
    return 0;
  },
});

/** One row for each leaf, with its dotted path. */
function rowsOf(value: object, prefix: string): string[][] {
  return Object.entries(value).flatMap(([key, item]: [string, unknown]) => {
    const path = prefix === "" ? key : `${prefix}.${key}`;
    return typeof item === "object" && item !== null ? rowsOf(item, path) : [[path, String(item)]];
  });
}
