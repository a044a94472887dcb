/** The calls about the guest as a whole: sandbox, clock, random pool, files, hot-plugged CPUs and memory, policies, what it can do. */
import type { AgentService } from "../../gen/agent_pb.ts";
import type { HandlersOf } from "../../rpc/ttrpc/service.ts";
import { setRealtime } from "../../sys/clock.ts";
import { reseedKernelRandom } from "../../sys/random.ts";
import type { AgentContext } from "./agent-context.ts";
import type { GuestSandbox } from "./guest-sandbox.ts";
import { Hotplug } from "./hotplug.ts";

type AllHandlers = Required<HandlersOf<typeof AgentService>>;
type GuestHandlers = Pick<
  AllHandlers,
  | "createSandbox"
  | "destroySandbox"
  | "onlineCPUMem"
  | "reseedRandomDev"
  | "setGuestDateTime"
  | "getGuestDetails"
  | "copyFile"
  | "mirrorVolume"
  | "loadApparmorProfile"
  | "fillTranslationBuffer"
>;

const NANOSECONDS_PER_SECOND = 1_000_000_000n;
const NANOSECONDS_PER_MICROSECOND = 1000n;

export function guestHandlers(sandbox: GuestSandbox, context: AgentContext): GuestHandlers {
  const hotplug = new Hotplug();
  return {
    async createSandbox(request, { signal }) {
      hotplug.begin();
      await sandbox.open(request, signal);
      return {};
    },
    async destroySandbox() {
      await sandbox.close();
      const { syncDisks } = await import("../../sys/power.ts");
      syncDisks();
      return {};
    },
    async onlineCPUMem({ wait, nbCpus, cpuOnly }, { signal }) {
      await hotplug.online({ wait, cpus: nbCpus, memory: !cpuOnly }, signal);
      return {};
    },
    reseedRandomDev({ data }) {
      reseedKernelRandom(data);
      return {};
    },
    setGuestDateTime({ Sec, Usec }) {
      setRealtime(Sec * NANOSECONDS_PER_SECOND + Usec * NANOSECONDS_PER_MICROSECOND);
      return {};
    },
    async getGuestDetails(request) {
      const { guestDetails } = await import("./guest-details.ts");
      return guestDetails(request);
    },
    async copyFile(request) {
      const { copyFile } = await import("./copy-file.ts");
      copyFile(request, context.paths);
      return {};
    },
    async mirrorVolume(request) {
      const { mirrorVolume } = await import("./mirror-volume.ts");
      mirrorVolume(request, context.paths);
      return {};
    },
    async loadApparmorProfile({ binary }) {
      const { loadApparmorProfile } = await import("./apparmor.ts");
      loadApparmorProfile(binary);
      return {};
    },
    async fillTranslationBuffer() {
      const { fillTranslationBuffer } = await import("../../sys/translation-buffer.ts");
      fillTranslationBuffer();
      return {};
    },
  };
}
