/** Kernel parameters of the guest's own namespaces. */
import { writeFileSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";

/** Sets them in order. Fails with invalid-argument for a name that leads elsewhere, not-found for one the kernel lacks. */
export function applySysctls(values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values)) {
    if (typeof value !== "string") throw new HearthError("invalid-argument", `set sysctl ${name}: not a string`);
    try {
      writeFileSync(`/proc/sys/${sysctlPath(name)}`, value);
    } catch (thrown) {
      throw toHearthError(thrown, `set sysctl ${name}`);
    }
  }
}

/** Dots and slashes change places unless a slash comes first, as an interface may be called eth0.1. Source: sysctl.d(5). */
export function sysctlPath(name: string): string {
  const separator = /[./]/.exec(name)?.[0];
  const swapped = { ".": "/", "/": "." } as const;
  const path =
    separator === "/" ? name : name.replaceAll(/[./]/g, (found) => (found === "." ? swapped["."] : swapped["/"]));
  if (path.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new HearthError("invalid-argument", `set sysctl ${JSON.stringify(name)}: not the name of one`);
  }
  return path;
}
