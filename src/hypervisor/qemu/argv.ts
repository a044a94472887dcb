/** QEMU's command line for a VM. Pure: the same options give the same arguments. */
import type { BootOptions, Device } from "../interface.ts";

/** Name of the agent's port as the guest sees it. */
export const AGENT_PORT_NAME = "org.hearth.agent.0";

/** MiB of translated code that QEMU keeps under TCG; its default, an eighth of guest memory and more, costs real memory. */
const TCG_TRANSLATION_BUFFER_MIB = 128;

export function qemuArguments(options: BootOptions): [string, ...string[]] {
  return [
    options.qemuPath,
    ...["-name", `hearth-${options.vmId},debug-threads=on`],
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    ...machine(options),
    ...memory(options),
    ...["-kernel", options.kernel, "-initrd", options.initrd, "-append", options.kernelParams.join(" ")],
    ...["-chardev", `socket,id=qmp,path=${quote(options.qmpSocket)},server=on,wait=off`],
    ...["-mon", "chardev=qmp,mode=control"],
    ...["-rtc", "base=utc,driftfix=slew"],
    ...["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
    ...["-blockdev", `driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=${quote(options.image)}`],
    ...["-device", "virtio-blk-pci,drive=root"],
    ...["-device", "virtio-serial-pci,id=serial"],
    ...["-chardev", `file,id=console,path=${quote(options.consoleLog)}`, "-serial", "chardev:console"],
    ...["-chardev", `socket,id=agent,path=${quote(options.agentSocket)},server=on,wait=off`],
    ...["-device", `virtserialport,id=agent-port,chardev=agent,name=${AGENT_PORT_NAME}`],
    ...options.devices.flatMap(device),
    ...(options.seccomp ? ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"] : []),
  ];
}

function machine(options: BootOptions): string[] {
  const backend = "memory-backend=ram";
  const accel = options.accel === "tcg" ? `tcg,tb-size=${TCG_TRANSLATION_BUFFER_MIB}` : "kvm";
  const lean = "vmport=off,usb=off,hpet=off";
  return [
    ...["-machine", `${options.machine},${lean},${backend}`],
    ...["-accel", accel],
    ...["-cpu", options.accel === "tcg" ? "max,la57=off" : "host"],
    ...["-smp", `${options.vcpus},maxcpus=${options.maxVcpus}`],
  ];
}

function memory(options: BootOptions): string[] {
  const size = `${options.memoryMib}M`;
  const grows = options.maxMemoryMib > options.memoryMib;
  return [
    ...["-m", grows ? `size=${size},slots=8,maxmem=${options.maxMemoryMib}M` : `size=${size}`],
    ...[
      "-object",
      options.sharedMemory
        ? `memory-backend-memfd,id=ram,size=${size},share=on`
        : `memory-backend-ram,id=ram,size=${size}`,
    ],
  ];
}

function device(entry: Device): string[] {
  switch (entry.kind) {
    case "shared-directory-virtio-fs":
      return [
        ...["-chardev", `socket,id=virtiofsd,path=${quote(entry.socketPath)}`],
        ...["-device", `vhost-user-fs-pci,chardev=virtiofsd,tag=${entry.tag}`],
      ];
    case "shared-directory-9p":
      return [
        "-fsdev",
        `local,id=shared,path=${quote(entry.path)},security_model=passthrough,multidevs=remap${entry.readOnly ? ",readonly=on" : ""}`,
        ...["-device", `virtio-9p-pci,fsdev=shared,mount_tag=${entry.tag}`],
      ];
    case "block":
    case "nic":
      throw new Error(`device ${entry.kind} is added to the running VM`);
  }
}

/** A comma ends an option's value; doubled, it is one. Source: qemu(1). */
function quote(value: string): string {
  return value.replaceAll(",", ",,");
}
