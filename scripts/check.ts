/**
 * Static checks: types, lint and format, layers, protocols, lock file. `npm run check` runs all of them.
 *
 * bun scripts/check.ts accept-protocols   makes today's protocols the ones that later changes are compared with
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkLayers } from "./layers.ts";
import { generateCommand, PROTOCOLS } from "./protocols.ts";
import { mustRun, REPOSITORY, runCommand, runTool, StepError, step } from "./step.ts";

/** The protocols as they were last accepted, compiled by buf. */
const PROTOCOL_IMAGE = "test/fixtures/proto.binpb";

interface Check {
  readonly name: string;
  /** Undefined when all is well, else what is wrong. */
  run(): Promise<string | undefined>;
}

/** A check that is one tool's exit status. */
function tool(name: string, ...argv: readonly string[]): Check {
  return {
    name,
    run: async () => {
      const { status, output } = await runTool(argv);
      return status === 0 ? undefined : `${argv.join(" ")}: exit status ${status}\n${output.trim()}`;
    },
  };
}

const layers: Check = {
  name: "layers",
  run: async () => {
    const faults = await checkLayers(join(REPOSITORY, "src"));
    if (faults.length === 0) return undefined;
    return faults.map(({ file, line, reason }) => `src/${file}:${line} ${reason}`).join("\n");
  },
};

/** The committed code is what the protocols generate; made elsewhere, so that checking changes nothing. */
const generated: Check = {
  name: "generated code",
  run: async () => {
    const directory = await mkdtemp(join(tmpdir(), "hearth-generate-"));
    try {
      const differences: string[] = [];
      for (const { template, output } of PROTOCOLS) {
        await mustRun(generateCommand(template, "--output", directory));
        const diff = await runTool(["diff", "-r", output, join(directory, output)]);
        if (diff.status === 0) continue;
        differences.push(`${output} is not what it is generated from; run ${generateCommand(template).join(" ")}`);
        differences.push(diff.output.trim());
      }
      return differences.length === 0 ? undefined : differences.join("\n");
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
};

/** The lock file must install from whatever registry is configured. */
const lockFile: Check = {
  name: "lock file",
  run: async () => {
    const text = await Bun.file(join(REPOSITORY, "package-lock.json")).text();
    const urls = text.split("\n").filter((line) => line.includes('"resolved"'));
    return urls.length === 0 ? undefined : `package-lock.json names a registry:\n${urls.slice(0, 5).join("\n")}`;
  },
};

const CHECKS: readonly Check[] = [
  tool("types", "tsc", "-p", "."),
  tool("lint and format", "biome", "ci", "--error-on-warnings", "--colors=off", "--diagnostic-level=warn", "."),
  layers,
  lockFile,
  tool("protocol lint", "buf", "lint"),
  tool("protocol compatibility", "buf", "breaking", "--against", PROTOCOL_IMAGE),
  generated,
];

async function check(): Promise<void> {
  if (process.argv[2] === "accept-protocols") {
    await mustRun(["buf", "build", "--output", PROTOCOL_IMAGE]);
    return;
  }
  const failures: string[] = [];
  for (const { name, run } of CHECKS) {
    await step("check", name, async () => {
      const wrong = await run();
      if (wrong === undefined) return "passed";
      failures.push(`${name}:\n${wrong}`);
      return "FAILED";
    });
  }
  if (failures.length > 0)
    throw new StepError(`\n${failures.join("\n\n")}\n\n${failures.length} of ${CHECKS.length} checks failed`);
}

await runCommand(check);
