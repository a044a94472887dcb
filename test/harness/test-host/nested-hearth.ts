/**
 * The built executable inside a test host. Its VMs have KVM, but an emulated one: every deadline that can be configured is
 * at its most and the guest is as small as it gets.
 */
import { join, resolve } from "node:path";
import { DEFAULT_CONFIG_PATH, DEFAULT_RUN_DIR } from "../../../src/paths.ts";
import { parseVmRecord, type VmRecord } from "../../../src/vm/vm-record.ts";
import { type ConfigOverrides, configToml } from "../hearth.ts";
import type { ProgramResult } from "../program.ts";
import type { TestHost } from "./test-host.ts";

const REPOSITORY = resolve(import.meta.dir, "../../..");
const GUEST = join(REPOSITORY, "build/guest");
const CLOCK = join(REPOSITORY, "test/fixtures/container-clock.ts");
/** The most that configuration allows. */
const LONG_MS = 600_000;
/** For a command that boots a VM or waits for one. */
const COMMAND_TIMEOUT_MS = 1_200_000;

export const SLOW_HOST: ConfigOverrides = {
  hypervisor: {
    // As they were built: unpacking and checking them takes long here.
    kernel: join(GUEST, "vmlinux"),
    initrd: join(GUEST, "initrd.cpio"),
    image: join(GUEST, "rootfs.erofs"),
    // Needs no virtiofsd, and clones are copy-on-write.
    shared_fs: "virtio-9p",
    kernel_params: "mitigations=off",
    default_memory: 256,
    default_maxmemory: 512,
    default_maxvcpus: 1,
    boot_timeout_ms: LONG_MS,
  },
  factory: { vm_cache_timeout_ms: LONG_MS, vm_cache_lease_ms: LONG_MS },
  runtime: { log_level: "debug", request_timeout_ms: LONG_MS },
};

function configText(config: ConfigOverrides, runtime: ConfigOverrides["runtime"]): string {
  return configToml({
    hypervisor: { ...SLOW_HOST.hypervisor, ...config.hypervisor },
    factory: { ...SLOW_HOST.factory, ...config.factory },
    runtime: { ...SLOW_HOST.runtime, ...runtime, ...config.runtime },
  });
}

export class NestedHearth {
  readonly runDir: string;
  readonly #host: TestHost;
  readonly #configPath: string;
  /** Where the executable and its link are. */
  readonly #programs: string;

  private constructor(host: TestHost, runDir: string, configPath: string, programs = join(REPOSITORY, "dist")) {
    this.#host = host;
    this.runDir = runDir;
    this.#configPath = configPath;
    this.#programs = programs;
  }

  /** Installed as README.md says, with the paths that are the default. */
  static async install(host: TestHost, config: ConfigOverrides): Promise<NestedHearth> {
    await host.sh(`
      install -m 755 ${REPOSITORY}/dist/hearth /usr/local/bin/hearth
      ln -s hearth /usr/local/bin/hearth-runtime
      cp ${REPOSITORY}/packaging/systemd/hearth-vmcache.* /etc/systemd/system/`);
    await host.write(DEFAULT_CONFIG_PATH, configText(config, {}));
    return new NestedHearth(host, DEFAULT_RUN_DIR, DEFAULT_CONFIG_PATH, "/usr/local/bin");
  }

  /** `name` makes it apart from others in the same test host. */
  static async make(host: TestHost, name: string, config: ConfigOverrides): Promise<NestedHearth> {
    const runDir = `/run/hearth-${name}`;
    const configPath = `/etc/hearth/${name}.toml`;
    await host.write(configPath, configText(config, { run_dir: runDir }));
    return new NestedHearth(host, runDir, configPath);
  }

  /** What all of them in a test host have left behind: processes, mounts, directories of VMs and containers. */
  static async leftovers(host: TestHost): Promise<string> {
    return await host.sh(`
      pgrep -a 'qemu-system|hearth|virtiofsd' || true
      grep ' /run/hearth[^ ]*/vm/' /proc/self/mounts || true
      ls -d /run/hearth*/vm/* /run/hearth*/containers/* 2>/dev/null || true`);
  }

  /** `hearth ARGS`, which must succeed. */
  async hearth(...args: string[]): Promise<ProgramResult> {
    return await this.#run([join(this.#programs, "hearth"), ...args]);
  }

  /** `hearth-runtime --debug ARGS`, which must succeed and keep neither of its outputs open. */
  async runtime(...args: string[]): Promise<ProgramResult> {
    return await this.#run([this.#runtime, "--debug", ...args]);
  }

  /** A container that has files for standard streams, created and started. Returns the log of `create`. */
  async start(id: string, bundle: string): Promise<string> {
    const script =
      '"$0" --debug create --bundle "$1" "$2" </dev/null >"/tmp/$2.out" 2>&1 || { cat "/tmp/$2.out"; exit 1; }';
    await this.#run(["/bin/sh", "-c", script, this.#runtime, bundle, id]);
    await this.runtime("start", id);
    return await this.#host.sh(`cat /tmp/${id}.out`);
  }

  /** `hearth-runtime ARGS`, a container's CLOCK_PROGRAM, whose clock must be the test host's, to two seconds. */
  async expectRightClock(...args: string[]): Promise<void> {
    await this.#run([process.execPath, CLOCK, "hearth-runtime", this.#runtime, ...args]);
  }

  get #runtime(): string {
    return join(this.#programs, "hearth-runtime");
  }

  /** Records of the VMs there are. */
  async records(): Promise<VmRecord[]> {
    const texts = await this.#host.sh(
      `for r in ${this.runDir}/vm/*/vm.json; do [ ! -e $r ] || { cat $r; printf '\\036'; }; done`,
    );
    return texts
      .split("\x1e")
      .filter((text) => text !== "")
      .map((text) => parseVmRecord(text, "of test host"));
  }

  /** The record of the first VM that has its QEMU; fails when `maker`, who is to make it, ends before. */
  async firstVm(maker: Promise<ProgramResult>): Promise<VmRecord> {
    // The record names QEMU's process, or virtiofsd's, as soon as there is one.
    const seen = this.#host.sh(`until grep -qs '"startTime"' ${this.runDir}/vm/*/vm.json; do sleep 1; done`, {
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
    const ended = maker.then(({ stderr }) => {
      throw new Error(`no VM was made: ${stderr}`);
    });
    await Promise.race([seen, ended]);
    const [record] = (await this.records()).filter(({ processes }) => processes.length > 0);
    return record ?? (await this.firstVm(maker));
  }

  /** The CID in the record, which is that of the VM's QEMU; fails when it is not. */
  async cidOf(record: VmRecord): Promise<number> {
    const { agentAddress } = record;
    if (agentAddress.transport !== "vsock") throw new Error(`VM without vsock: ${JSON.stringify(record)}`);
    const argv = await this.#host.sh(
      record.processes.map(({ pid }) => `tr '\\0' ' ' </proc/${pid}/cmdline; echo`).join("; "),
    );
    const device = `vhost-vsock-pci,id=vsock,guest-cid=${agentAddress.cid},`;
    if (!argv.includes(device)) throw new Error(`no ${device} in ${argv}`);
    return agentAddress.cid;
  }

  /** `body`, with the logs of every VM there is shown when it fails. */
  async explained<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (thrown) {
      process.stderr.write(await this.describe());
      throw thrown;
    }
  }

  /** The ends of the logs of every VM there is. */
  async describe(): Promise<string> {
    return await this.#host.sh(`tail -n 40 ${this.runDir}/vm/*/*.log 2>/dev/null || true`);
  }

  async #run(argv: readonly string[]): Promise<ProgramResult> {
    return await this.#host.ok(argv, { env: { HEARTH_CONFIG: this.#configPath }, timeoutMs: COMMAND_TIMEOUT_MS });
  }
}
