/** Usage texts, from the same tables that the flags are parsed by. The only user of citty. */
import { type ArgsDef, type CommandDef, renderUsage, type SubCommandsDef } from "citty";
import type { FlagTable } from "./flags.ts";

/** Of one command: `name` is the whole of what is typed before its flags. */
export async function commandUsage(
  name: string,
  summary: string,
  command: { readonly flags: FlagTable; readonly positionals: string },
): Promise<string> {
  const args = { ...positionalArgs(command.positionals), ...flagArgs(command.flags) };
  return await render(name, summary, { args });
}

/** Of a program that has commands. */
export async function programUsage(
  name: string,
  flags: FlagTable,
  commands: Readonly<Record<string, { readonly summary: string }>>,
): Promise<string> {
  const subCommands: SubCommandsDef = {};
  for (const [command, { summary }] of Object.entries(commands)) {
    subCommands[command] = { meta: { name: command, description: summary } };
  }
  const description = "OCI container runtime that runs every pod in its own virtual machine";
  return await render(name, description, { args: flagArgs(flags), subCommands });
}

/** Begins as runc's do, which its callers look for; citty's own first line says the same in another order. */
async function render(name: string, description: string, command: CommandDef<ArgsDef>): Promise<string> {
  // Colours are for people at a terminal; this text is also read by programs and kept in files.
  const [, ...lines] = Bun.stripANSI(await renderUsage({ ...command, meta: { name } })).split("\n");
  const rest = lines.join("\n").replace(/^USAGE /m, "USAGE:\n   ");
  return `NAME:\n   ${name} - ${description}\n${rest}\n`;
}

function flagArgs(flags: FlagTable): ArgsDef {
  const args: ArgsDef = {};
  for (const [name, flag] of Object.entries(flags)) {
    args[name] = {
      type: flag.type,
      description: flag.help,
      ...(flag.short === undefined ? {} : { alias: flag.short }),
      ...(flag.value === undefined ? {} : { valueHint: flag.value }),
    };
  }
  return args;
}

/** "<container-id> [signal]": angle brackets are required, square ones optional. */
function positionalArgs(positionals: string): ArgsDef {
  const args: ArgsDef = {};
  for (const [, open, name = ""] of positionals.matchAll(/([<[])([^>\]]+)[>\]]/g)) {
    args[name] = { type: "positional", required: open === "<", description: "" };
  }
  return args;
}
