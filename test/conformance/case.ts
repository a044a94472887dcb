/** What a conformance case is: a bundle, commands with what they must do, and where the OCI runtime spec says so. */

/** A command of the runtime's command line. */
export interface CommandStep {
  readonly run: readonly string[];
  /** Exit status; "fails" is any but 0. Default 0. */
  readonly status?: number | "fails";
  /** What the command wrote: exactly (without the last line end), or a pattern. */
  readonly stdout?: string | RegExp;
  readonly stderr?: RegExp;
  /** Members that the JSON on standard output must have, at any depth. */
  readonly json?: unknown;
  readonly stdin?: string;
  /** Redirections as bash has them, for descriptors beside the standard streams: `3<$DIR/in`. */
  readonly redirect?: string;
  /** Until it is killed. Default: 60 s. */
  readonly timeoutMs?: number;
}

/** Waits until `state` says so. */
export interface UntilStep {
  readonly until: "created" | "running" | "paused" | "stopped";
}

/** What a file on the host holds; null: there is none. */
export interface FileStep {
  readonly file: string;
  readonly holds: string | RegExp | null;
}

/** Writes a file on the host between two commands. */
export interface WriteStep {
  readonly write: string;
  readonly text: string;
}

export type Step = CommandStep | UntilStep | FileStep | WriteStep;

/**
 * In every text of `config` and `steps`, `$DIR` is the case's own directory on the host, `$BUNDLE` the bundle in it and
 * `$ID` the container; `$DISK` is a disk of the host. Alone `$INFINITY` becomes the number 2^64-1, `$MAJOR` and `$MINOR`
 * those of the disk.
 */
export interface Case {
  readonly name: string;
  /** Page and section of the OCI runtime spec 1.3. */
  readonly spec: string;
  readonly steps: readonly Step[];
  /** args of the process. Default: a sleep. */
  readonly args?: readonly string[];
  /** Members of config.json, one level deep as in `bundleConfig`; undefined takes one away. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** The whole of config.json as text, for files that are no configuration at all. */
  readonly configText?: string;
  /**
   * Files below the case's directory, by relative path; those of `rootfs/` are the container's. A text with `#!` is
   * executable, and so are bytes.
   */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  /** Symbolic links below the case's directory: link to target. */
  readonly links?: Readonly<Record<string, string>>;
  /** What is taken away of the root file system, before anything is put into the case's directory. */
  readonly removed?: readonly string[];
  /** Directories below the case's directory. */
  readonly directories?: readonly string[];
  /** Hearth gives the container a VM of its own; otherwise it joins one that cases share, as a container of a pod. */
  readonly alone?: true;
  /** Why runc does not pass on a machine like this one; without it runc must pass. */
  readonly runcFails?: string;
}

export interface Topic {
  readonly topic: string;
  readonly cases: readonly Case[];
}

type Extra = Partial<Omit<Case, "name" | "spec" | "args">>;

/** A case that runs a shell script in a container: its output, and its exit status when it is not 0. */
export function prints(
  name: string,
  spec: string,
  script: string,
  stdout: string | RegExp,
  extra: Extra & { readonly status?: number } = {},
): Case {
  const { status, ...rest } = extra;
  const step: CommandStep = { run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout };
  return {
    name,
    spec,
    args: ["/bin/sh", "-c", script],
    steps: [status === undefined ? step : { ...step, status }],
    ...rest,
  };
}

/** A case that must not come to be: `create` fails, says why, and nothing is left. */
export function refuses(name: string, spec: string, why: RegExp | undefined, extra: Extra): Case {
  const create: CommandStep = { run: ["create", "--bundle", "$BUNDLE", "$ID"], status: "fails" };
  return {
    name,
    spec,
    steps: [
      why === undefined ? create : { ...create, stderr: why },
      { run: ["state", "$ID"], status: 1, stderr: /does not exist/ },
    ],
    ...extra,
  };
}
