/** The shape that all runtime commands share, and the checks of their positionals. */
import { HearthError } from "../../errors.ts";
import { type FlagsEnd, type FlagTable, type FlagValues, parseFlags } from "../flags.ts";
import type { RuntimeContext } from "./context.ts";

export interface RuntimeCommand {
  readonly flags: FlagTable;
  /** Positionals as the usage shows them. */
  readonly positionals: string;
  /** "first-positional" where another program's words come after the container's id. */
  readonly flagsEnd: FlagsEnd;
  /** Put before the message of every failure. */
  readonly failurePrefix?: string;
  /** Exit status of our own failures. Default: the error's, normally 1. */
  readonly failureExitCode?: number;
  /** Resolves with the exit status. */
  run(context: RuntimeContext, args: readonly string[]): Promise<number>;
}

export interface CommandDefinition<T extends FlagTable> {
  readonly flags: T;
  readonly positionals: string;
  /** Default "never". */
  readonly flagsEnd?: FlagsEnd;
  readonly failurePrefix?: string;
  readonly failureExitCode?: number;
  /** Undefined means exit status 0. */
  run(context: RuntimeContext, flags: FlagValues<T>, positionals: readonly string[]): Promise<number | undefined>;
}

/** Ties the flag table to the types that `run` sees. */
export function defineRuntimeCommand<const T extends FlagTable>(definition: CommandDefinition<T>): RuntimeCommand {
  const { flagsEnd = "never" } = definition;
  return {
    ...definition,
    flagsEnd,
    async run(context, args) {
      const { flags, rest } = parseFlags(definition.flags, args, flagsEnd);
      return (await definition.run(context, flags, rest)) ?? 0;
    },
  };
}

/** The one positional of a command. Fails with invalid-argument when there is none or more. */
export function onlyContainerId(positionals: readonly string[]): string {
  const [id] = positionals;
  if (id === undefined) throw new HearthError("invalid-argument", "container id is missing");
  if (positionals.length > 1) {
    throw new HearthError("invalid-argument", `exactly 1 argument is wanted, got ${positionals.length}`);
  }
  return id;
}
