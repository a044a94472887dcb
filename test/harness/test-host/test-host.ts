/**
 * A host of a test's own, in an emulated VM, for what the machine that runs the tests cannot do or must not suffer: all
 * capabilities, cgroup version 2 alone, KVM, /dev/vhost-vsock, vhost-net, every module of the guest's kernel (`modprobe`
 * finds them), raised rlimits, and a loss of power.
 *
 * Its files are this machine's, at the same paths, as they were when it started; what it writes goes to its memory and is
 * never seen outside. So programs, the repository and dist/hearth are simply there, and a bundle may be made outside
 * before the start or inside. /run, /dev, /proc and /sys are its own; network interfaces it has none but `lo`.
 *
 *   await using host = await TestHost.start();
 *   const { stdout } = await host.ok(["podman", "info"]);        // run() for any exit status
 *   await host.write("/etc/hearth/config.toml", "…");
 *   host.cutPower();                                              // or: await host.powerOff()
 *
 * A share of files does not survive a suspension to memory. So with `carry` it has none: only what a nested hearth needs,
 * and the paths that are named, are there, copied into its memory, and it can `suspend`.
 *
 * It is slow: a program takes 5 to 20 times as long as outside (boot 3 s, `bun` 2 s), so one test host should serve a whole
 * test file. A hearth VM inside it takes 13 s, by KVM on the AMD-V that QEMU emulates: emulated once more it took 113.
 * When a test fails, show `host.console()`.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { makeInitrd } from "../../../guest/initrd.ts";
import { fetchKernel } from "../../../guest/kernel.ts";
import { readModuleSource } from "../../../guest/modules.ts";
import { O_APPEND, O_CREAT, O_WRONLY, openFd } from "../../../src/sys/fd.ts";
import { type ChildProcess, describeExit, spawnProcess, terminate } from "../../../src/sys/process.ts";
import { listenSocket } from "../../../src/sys/scm.ts";
import { SIGKILL } from "../../../src/sys/signals.ts";
import { measureTscKhz } from "../../../src/sys/tsc.ts";
import { connectUnix } from "../../../src/sys/unix-socket.ts";
import { withDeadline } from "../../../src/util/wait.ts";
import { PATH, type ProgramResult } from "../program.ts";
import { type Scratch, scratch } from "../scratch.ts";
import { carriedFiles } from "./carried-files.ts";
import { CommandChannel } from "./command-channel.ts";
import { TEST_HOST_PORT } from "./protocol.ts";

const REPOSITORY = resolve(import.meta.dir, "../../..");
const SERVER = join(REPOSITORY, "test/fixtures/test-host-server.ts");
/** Boots in less than half the time that the same kernel compressed takes. */
const VMLINUX = join(REPOSITORY, "build/guest/vmlinux");
const MODULES = [
  "virtio_pci",
  "virtio_console",
  "9p",
  "9pnet_virtio",
  "overlay",
  "virtio_blk",
  "virtio_rng",
  "kvm_amd",
];
const START_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 300_000;
const POWER_OFF_TIMEOUT_MS = 60_000;
/** Until it sleeps, and again until it is awake; emulated. */
const SUSPEND_MARGIN_MS = 120_000;
/** Beyond a command's own deadline, for its answer to come. */
const ANSWER_MARGIN_MS = 30_000;
/** From the end of its channel to that of QEMU, when the one is for the other. */
const END_MARGIN_MS = 2_000;
/** Of its console, in an error. */
const CONSOLE_LINES = 60;
/** MiB for translated code; a VM inside has its code translated too. Source: measured, 256 is slower. */
const TRANSLATION_BUFFER_MIB = 512;
/** Exact to far less than the 250 of a million by which KVM takes two rates for one. */
const TSC_MEASURING_MS = 50;
const CHANNEL_FD = 3;

export interface TestHostOptions {
  /** MiB, of which files that it writes take too. Default 4096. */
  readonly memoryMib?: number;
  /** A file that becomes its disk /dev/vda: it survives a loss of power, as far as it was written through. */
  readonly disk?: string;
  /** PID 1. systemd has no units but what a test installs in /etc/systemd/system. Default: busybox. */
  readonly init?: "busybox" | "systemd";
  /** Paths that it has besides what a nested hearth needs, and no other files of this machine's: then it can `suspend`. */
  readonly carry?: readonly string[];
}

export interface CommandOptions {
  readonly stdin?: Uint8Array | string;
  /** The whole environment but PATH and HOME. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default "/". */
  readonly cwd?: string;
  /** Milliseconds until it is killed and the result is an error. Default 300 s. */
  readonly timeoutMs?: number;
}

export class TestHost implements AsyncDisposable {
  readonly #files: Scratch;
  readonly #qemu: ChildProcess;
  readonly #channel: CommandChannel;

  private constructor(files: Scratch, qemu: ChildProcess, channel: CommandChannel) {
    this.#files = files;
    this.#qemu = qemu;
    this.#channel = channel;
  }

  /** Resolves when it runs commands. The error of one that does not start shows its console. */
  static async start(options: TestHostOptions = {}): Promise<TestHost> {
    const files = scratch();
    let qemu: ChildProcess | undefined;
    try {
      const initrd = files.path("initrd.cpio");
      const { image, modulesDir, bzImage } = await testHostInitrd();
      writeFileSync(initrd, image);
      const socket = files.path("channel.sock");
      let kernel = VMLINUX;
      const append = [`testhost.modules=${modulesDir}`, `testhost.init=${options.init ?? "busybox"}`];
      // Left to find it out, the kernel is sometimes wrong and sometimes changes its mind once KVM has taken its word: then
      // the clock runs too fast, or timers of a VM inside fire a minute late.
      append.push(`tsc_early_khz=${await measureTscKhz(TSC_MEASURING_MS)}`);
      if (options.carry !== undefined) {
        // QEMU loads the other one anew at every reset, and that is how a machine wakes up.
        kernel = bzImage;
        writeFileSync(files.path("carried"), (await carriedFiles(options.carry)).join("\n"));
        append.push(`testhost.carried=${files.path("carried")}`);
      }
      qemu = spawnQemu(files, socket, { kernel, initrd, append }, options);
      const ended = qemu.exited.then((status) => {
        throw new Error(`the test host ended with ${describeExit(status)}`);
      });
      ended.catch(() => undefined);
      const channel = new CommandChannel(await connectUnix(socket));
      const ready = Promise.race([channel.ready, ended]);
      await withDeadline("test host", ready, { timeoutMs: START_TIMEOUT_MS });
      return new TestHost(files, qemu, channel);
    } catch (thrown) {
      const said = qemu === undefined ? "" : consoleOf(files);
      if (qemu !== undefined) await terminate(qemu, { graceMs: 0 });
      files[Symbol.dispose]();
      throw new Error(`start test host: ${String(thrown)}\n${said}`, { cause: thrown });
    }
  }

  /** Runs a program to its end, beside others. Both of its outputs are read to their ends. */
  async run(argv: readonly string[], options: CommandOptions = {}): Promise<ProgramResult> {
    const timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
    const command = {
      argv,
      cwd: options.cwd ?? "/",
      env: { PATH, HOME: "/root", ...options.env },
      stdin: Buffer.from(options.stdin ?? "").toString("base64"),
      timeoutMs,
    };
    const answer = await withDeadline(
      `answer of the test host to ${argv.join(" ")}`,
      this.#channel.run(command).catch((thrown: unknown) => this.#failed(thrown)),
      { timeoutMs: timeoutMs + ANSWER_MARGIN_MS },
    );
    const stdout = Buffer.from(answer.stdout, "base64");
    const stderr = Buffer.from(answer.stderr, "base64").toString();
    if (answer.timedOut) {
      throw new Error(`in the test host: ${argv.join(" ")}: not ended after ${timeoutMs} ms\n${stdout}${stderr}`);
    }
    return { status: answer.status, stdout: stdout.toString(), stderr, bytes: stdout };
  }

  /** As `run`, but any other end than status 0 is an error that shows what the program said. */
  async ok(argv: readonly string[], options: CommandOptions = {}): Promise<ProgramResult> {
    const result = await this.run(argv, options);
    if (result.status === 0) return result;
    throw new Error(`in the test host: ${argv.join(" ")}: status ${result.status}\n${result.stdout}${result.stderr}`);
  }

  /** A shell script that must succeed; what it printed without the white space around it. */
  async sh(script: string, options: CommandOptions = {}): Promise<string> {
    return (await this.ok(["/bin/bash", "-c", script], options)).stdout.trim();
  }

  /** Runs a TypeScript program of the repository. */
  async bun(program: string, args: readonly string[] = [], options: CommandOptions = {}): Promise<ProgramResult> {
    return await this.ok([process.execPath, join(REPOSITORY, program), ...args], options);
  }

  /**
   * The same as a user without privileges: from a place where the repository can be read even when it is in somebody's
   * private directory. The program's own end is the result, whatever it is.
   */
  async bunAsNobody(program: string, args: readonly string[] = []): Promise<ProgramResult> {
    await this.sh('mountpoint -q /mnt || mount --bind "$REPOSITORY" /mnt', { env: { REPOSITORY } });
    const bun = join("/mnt", relative(REPOSITORY, process.execPath));
    const nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    return await this.run(["setpriv", ...nobody, bun, join("/mnt", program), ...args]);
  }

  /** A file of the test host, its directory made when it is missing. */
  async write(path: string, content: string): Promise<void> {
    await this.sh('mkdir -p "$(dirname "$TARGET")" && cat >"$TARGET"', { env: { TARGET: path }, stdin: content });
  }

  /** What its kernel and its init have said. */
  console(): string {
    return consoleOf(this.#files);
  }

  /**
   * To memory (ACPI S3), until its real time clock wakes it after so many whole seconds, 20 or more: it must be asleep by
   * then. Its programs and CLOCK_MONOTONIC stand still, its time of day and CLOCK_BOOTTIME go on. Wants `carry`.
   */
  async suspend(seconds: number): Promise<void> {
    const timeoutMs = seconds * 1000 + SUSPEND_MARGIN_MS;
    await this.ok(["rtcwake", "--utc", "--mode=mem", `--seconds=${seconds}`], { timeoutMs });
  }

  /** Orderly: mounted disks are written back. */
  async powerOff(): Promise<void> {
    await this.sh("sync; /bin/busybox poweroff -f").catch(() => undefined);
    await withDeadline("end of the test host", this.#qemu.exited, { timeoutMs: POWER_OFF_TIMEOUT_MS });
  }

  /** As pulling the plug; what had not reached its disk is lost. Commands that run fail. */
  cutPower(): void {
    this.#qemu.kill(SIGKILL);
  }

  /** Rejects with what went wrong, and, when that is the end of QEMU, with how it ended and the last that was said. */
  async #failed(thrown: unknown): Promise<never> {
    const status = await Promise.race([this.#qemu.exited, Bun.sleep(END_MARGIN_MS)]);
    if (status === undefined) throw thrown;
    const said = this.console().split("\n").slice(-CONSOLE_LINES).join("\n");
    throw new Error(`the test host ended with ${describeExit(status)}: ${said}`, { cause: thrown });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#channel.close();
    await terminate(this.#qemu, { graceMs: 0 });
    this.#files[Symbol.dispose]();
  }
}

function consoleOf(files: Scratch): string {
  return readFileSync(files.path("console.log"), "utf8");
}

interface TestHostInitrd {
  readonly image: Uint8Array;
  /** Of its kernel: all modules, and the file that boot loaders know. */
  readonly modulesDir: string;
  readonly bzImage: string;
}

async function testHostInitrd(): Promise<TestHostInitrd> {
  const cacheDir = join(REPOSITORY, "build/cache");
  mkdirSync(cacheDir, { recursive: true });
  const kernel = await fetchKernel(cacheDir, false, () => undefined);
  const modules = await readModuleSource(kernel);
  const init = join(import.meta.dir, "init");
  const contents = { init, busybox: "/bin/busybox", modules, kernelVersion: kernel.version, moduleNames: MODULES };
  const modulesDir = join(kernel.root, "lib/modules");
  return { image: await makeInitrd(contents), modulesDir, bzImage: kernel.vmlinuz };
}

function spawnQemu(
  files: Scratch,
  socket: string,
  boot: { readonly kernel: string; readonly initrd: string; readonly append: readonly string[] },
  options: TestHostOptions,
): ChildProcess {
  const append = [
    ...["console=ttyS0", "quiet", "panic=-1", "oops=panic", "mitigations=off"],
    ...["tsc=reliable", "no_timer_check", "nowatchdog", "cryptomgr.notests", "audit=0"],
    ...[`testhost.bun=${process.execPath}`, `testhost.server=${SERVER}`, ...boot.append],
  ];
  const disk = options.disk === undefined ? [] : ["-drive", `file=${options.disk},format=raw,if=virtio`];
  using channel = listenSocket(socket, 1);
  using log = openFd(files.path("console.log"), O_WRONLY | O_CREAT | O_APPEND);
  return spawnProcess({
    argv: [
      ...(["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"] as const),
      ...["-machine", "q35,smbus=off,sata=off,vmport=off,usb=off,hpet=off"],
      ...["-accel", `tcg,thread=multi,tb-size=${TRANSLATION_BUFFER_MIB}`, "-cpu", "max,la57=off,erms=off,fsrm=off"],
      // One: with two a test host once ended by itself, and in another one of some fifty containers hung; why was not found.
      // And room for a second, as in src/hypervisor/qemu/argv.ts: without it the kernel's memory barriers are left out.
      ...["-smp", "1,maxcpus=2", "-m", `${options.memoryMib ?? 4096}`],
      ...["-kernel", boot.kernel, "-initrd", boot.initrd, "-append", append.join(" ")],
      ...["-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console"],
      ...["-fsdev", "local,id=root,path=/,security_model=passthrough,readonly=on,multidevs=remap"],
      ...["-device", "virtio-9p-pci,fsdev=root,mount_tag=testhost"],
      ...["-chardev", `socket,id=channel,fd=${CHANNEL_FD},server=on,wait=off`],
      ...["-device", "virtio-serial-pci", "-device", `virtserialport,chardev=channel,name=${TEST_HOST_PORT}`],
      ...["-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"],
      ...disk,
    ],
    stdio: ["ignore", log.fd, log.fd, channel.fd],
  });
}
