/** Device nodes of a container: those that mean the same in every kernel are made in the guest. */
import { resolve } from "node:path";
import type { LinuxDevice, Resources } from "../oci/spec.ts";
import { refuse } from "./refuse.ts";

/** Character devices whose numbers mean the same in every kernel. Source: Linux Documentation/admin-guide/devices.txt. */
const PORTABLE_DEVICES: ReadonlySet<string> = new Set(["c1", "c5", "c10:200", "c10:229", "c10:237"]);

/**
 * A device of the host is refused, but for a privileged container: its engine lists whatever the host has, and nobody
 * asked for any of it by name.
 */
export function guestDevices(
  devices: readonly LinuxDevice[],
  resources: Resources | undefined,
  { hasDevice }: { readonly hasDevice: (device: LinuxDevice) => boolean },
  warnings: string[],
): LinuxDevice[] {
  // Numbers that the host has no device for are none that it could lend: their node leads nowhere in the guest too.
  const isOfHost = (device: LinuxDevice) => !isPortable(device) && hasDevice(device);
  const foreign = devices.filter(isOfHost);
  // crun would make no node whose path ends with a slash.
  const portable = devices
    .filter((device) => !isOfHost(device))
    .map((device) => ({ ...device, path: resolve("/", device.path) }));
  const [first] = foreign;
  if (first === undefined) return portable;
  const { path, type, major, minor } = first;
  const why = `${type} ${major}:${minor} is a device of the host, which does not reach into a VM`;
  if (!allowsEveryDevice(resources)) return refuse(`linux.devices ${path}`, why);
  warnings.push(`linux.devices ${path} and ${foreign.length - 1} more are not applied: ${why}`);
  return portable;
}

function isPortable({ type, major, minor }: LinuxDevice): boolean {
  if (type === "p") return true;
  const family = `${type === "u" ? "c" : type}${major}`;
  return PORTABLE_DEVICES.has(family) || PORTABLE_DEVICES.has(`${family}:${minor}`);
}

/** One rule for all, as engines write it for a privileged container. */
function allowsEveryDevice(resources: Resources | undefined): boolean {
  const [rule, ...more] = resources?.devices ?? [];
  if (rule === undefined || more.length > 0) return false;
  const isForAll = (rule["type"] ?? "a") === "a" && rule["major"] === undefined && rule["minor"] === undefined;
  return isForAll && rule["allow"] === true;
}
