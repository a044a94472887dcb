/** Numbers of network interfaces, which tell one from another that has taken its name. */
import { cString, lazyLibc } from "./libc.ts";

const libc = lazyLibc({ if_nametoindex: { args: ["ptr"], returns: "u32" } });

/** In the calling thread's network namespace; undefined without one of that name. */
export function interfaceIndex(name: string): number | undefined {
  const index = libc().if_nametoindex(cString(name));
  return index === 0 ? undefined : index;
}
