/**
 * A template for a hearth inside a test host, made outside where a boot takes seconds. QEMU, guest and hearth are the same
 * files there, but have other inode numbers, by which a template knows them: it gets the names of the other side.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { withHearth } from "../hearth.ts";
import { type NestedHearth, SLOW_HOST } from "./nested-hearth.ts";
import type { TestHost } from "./test-host.ts";

interface TemplateStatusJson {
  readonly wanted: readonly string[];
  readonly templates: readonly { readonly dir: string }[];
}

/** Of a nested hearth that is to have the carried template. */
export const CARRIED_TEMPLATE = { enable_template: true, template_path: "/run/hearth-templates" } as const;

/** Makes one outside and removes it when `body` has ended, which gets its directory. */
export async function withTemplate(body: (dir: string) => Promise<void>): Promise<void> {
  const config = { hypervisor: SLOW_HOST.hypervisor ?? {}, factory: { enable_template: true } };
  await withHearth({ config }, async (hearth) => {
    const { status, stderr } = await hearth.run(["template", "init"]);
    if (status !== 0) throw new Error(`template init: ${stderr}`);
    const { templates }: TemplateStatusJson = JSON.parse((await hearth.run(["template", "status", "--json"])).stdout);
    await body(templates[0]?.dir ?? "");
  });
}

/** From now on what is in `outside` is the template of the nested hearth, which is configured for CARRIED_TEMPLATE. */
export async function carryTemplate(outside: string, host: TestHost, hearth: NestedHearth): Promise<void> {
  const { wanted }: TemplateStatusJson = JSON.parse((await hearth.hearth("template", "status", "--json")).stdout);
  const identity = wanted[0] ?? "";
  const dir = join(CARRIED_TEMPLATE.template_path, identity);
  const stamp = await host.sh(`
    umask 077; mkdir -p ${dir}
    cp --sparse=always ${outside}/vm.mem ${outside}/vm.state ${dir}
    stat --printf '%d:%i %s %.9Y' ${dir}/vm.mem`);
  const record = JSON.parse(readFileSync(join(outside, "template.json"), "utf8"));
  record.identity = identity;
  // As src/vm/template-store.ts tells the file from others: device, inode, size, nanoseconds.
  record.memory.stamp = stamp.replace(".", "");
  await host.write(join(dir, "template.json"), JSON.stringify(record));
}
