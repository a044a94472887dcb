/** `checkpoint` and `restore`: a VM's processes are not ours to freeze into files yet; said so instead of half done. */
import { HearthError } from "../../errors.ts";
import type { RuntimeCommand } from "./command.ts";

export const command: RuntimeCommand = {
  flags: {},
  positionals: "",
  flagsEnd: "first-positional",
  async run() {
    throw new HearthError("unimplemented", "checkpoint and restore of containers are not supported");
  },
};
