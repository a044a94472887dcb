/** Flushing disks and ending the machine: for the guest. */
import { check, lazyLibc } from "./libc.ts";

/** Source: linux/reboot.h. */
const COMMANDS = { "power-off": 0x4321fedc, restart: 0x01234567 } as const;

const libc = lazyLibc({
  sync: { args: [], returns: "void" },
  reboot: { args: ["i32"], returns: "i32" },
});

/** Writes every file system's dirty pages out; returns when done. */
export function syncDisks(): void {
  libc().sync();
}

/** Ends the machine at once, without stopping a process or unmounting anything: sync first. Needs CAP_SYS_BOOT. */
export function endMachine(how: keyof typeof COMMANDS): void {
  check(libc().reboot(COMMANDS[how]), `${how} machine`);
}
