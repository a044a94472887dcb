/**
 * Makes a machine able to build, run and test Hearth: Debian packages, npm packages, then the build. Plain Node (18 or
 * newer), because Bun comes with the npm packages. What is up to date is skipped, so running it again takes a moment.
 *
 * node scripts/setup.mjs             everything
 * node scripts/setup.mjs --no-build  packages only
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const REPOSITORY = join(dirname(fileURLToPath(import.meta.url)), "..");
const BUN = join(REPOSITORY, "node_modules/.bin/bun");
/** Seconds that apt waits for another apt or dpkg to finish. */
const DPKG_LOCK_SECONDS = 300;

class SetupError extends Error {}

/** One line a step: `setup    0.1 s  npm packages: up to date`. */
async function step(name, work) {
  const started = performance.now();
  const outcome = await work();
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`setup ${seconds} s  ${name}: ${outcome}\n`);
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: REPOSITORY, encoding: "utf8", ...options });
  if (result.error) throw new SetupError(`run ${command}: ${result.error.message}`);
  return result;
}

/** As `run`, for long work: its output goes to our standard error, a failing status ends the set-up. */
function runLoud(command, args, env = {}) {
  const result = run(command, args, { stdio: ["ignore", 2, 2], env: { ...process.env, ...env } });
  if (result.status !== 0) throw new SetupError(`${command} ${args.join(" ")}: exit status ${result.status}`);
}

function wantedPackages() {
  return readFileSync(join(REPOSITORY, "scripts/packages.txt"), "utf8")
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim())
    .filter((line) => line !== "")
    .map((line) => line.split("|"));
}

function installedPackages() {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the format of dpkg-query looks like one
  const { stdout } = run("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status}\\n"], { maxBuffer: 1 << 26 });
  const lines = stdout.split("\n").filter((line) => line.endsWith(" installed"));
  return new Set(lines.map((line) => line.slice(0, line.indexOf(" "))));
}

function isAvailable(name) {
  return /Candidate: (?!\(none\))/.test(
    run("apt-cache", ["policy", name], { env: { ...process.env, LC_ALL: "C" } }).stdout,
  );
}

function debianPackages() {
  if (!existsSync("/usr/bin/dpkg-query")) {
    throw new SetupError(
      "dpkg-query not found: install by hand what scripts/packages.txt names, on Debian 12 or newer",
    );
  }
  const installed = installedPackages();
  const missing = wantedPackages().filter((names) => !names.some((name) => installed.has(name)));
  if (missing.length === 0) return "up to date";
  if (process.getuid?.() !== 0) {
    throw new SetupError(`not installed: ${missing.map(([name]) => name).join(" ")}; run as root to install them`);
  }
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const options = ["-q", "-o", `DPkg::Lock::Timeout=${DPKG_LOCK_SECONDS}`];
  runLoud("apt-get", [...options, "update"], env);
  const chosen = missing.map((names) => names.find(isAvailable) ?? names[0]);
  runLoud("apt-get", [...options, "install", "-y", "--no-install-recommends", ...new Set(chosen)], env);
  return `installed ${chosen.join(" ")}`;
}

function readLock(path) {
  try {
    return JSON.parse(readFileSync(join(REPOSITORY, path), "utf8")).packages;
  } catch {
    return undefined;
  }
}

/** True when node_modules holds exactly what package-lock.json names; npm itself notes there what it installed. */
function npmPackagesFit() {
  const wanted = readLock("package-lock.json");
  const present = readLock("node_modules/.package-lock.json");
  if (wanted === undefined || present === undefined) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === "") continue;
    const have = present[path];
    if (have === undefined ? !entry.optional : have.version !== entry.version || have.integrity !== entry.integrity) {
      return false;
    }
  }
  return Object.keys(present).every((path) => path in wanted);
}

function bunWorks() {
  const wanted = readLock("package-lock.json")?.["node_modules/bun"].version;
  const { status, stdout } = spawnSync(BUN, ["--version"], { encoding: "utf8" });
  return status === 0 && stdout.trim() === wanted;
}

function npmPackages() {
  if (npmPackagesFit() && bunWorks()) return "up to date";
  runLoud("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
  // Where npm does not run install scripts, Bun's command is not linked to its platform's executable yet.
  if (!bunWorks()) runLoud(process.execPath, ["node_modules/bun/install.js"]);
  if (!bunWorks()) throw new SetupError(`run ${BUN}: the executable does not start; Bun needs an x86-64 CPU with AVX2`);
  return "installed";
}

try {
  await step("Debian packages", debianPackages);
  await step("npm packages", npmPackages);
  if (!process.argv.includes("--no-build")) runLoud(BUN, ["scripts/build.ts"]);
} catch (thrown) {
  if (!(thrown instanceof SetupError)) throw thrown;
  process.stderr.write(`setup failed: ${thrown.message}\n`);
  process.exitCode = 1;
}
