/** The error of a property that a VM cannot apply. */
import { HearthError } from "../errors.ts";

/** Throws "unimplemented", naming the property of config.json. */
export function refuse(property: string, why: string): never {
  throw new HearthError("unimplemented", `apply ${property}: ${why}`, { facts: { property } });
}
