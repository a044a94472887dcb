/** The calls about interfaces, routes and neighbours; the code behind them is loaded when the first comes. */
import { HearthError } from "../../errors.ts";
import type { AgentService } from "../../gen/agent_pb.ts";
import type { HandlersOf } from "../../rpc/ttrpc/service.ts";

type NetworkHandlers = Pick<
  Required<HandlersOf<typeof AgentService>>,
  "updateInterface" | "updateRoutes" | "addARPNeighbors" | "listInterfaces" | "listRoutes"
>;

export function networkHandlers(): NetworkHandlers {
  const network = () => import("./network.ts");
  return {
    async updateInterface({ interface: wanted }, { signal }) {
      if (wanted === undefined) throw new HearthError("invalid-argument", "update interface: none given");
      return await (await network()).updateInterface(wanted, signal);
    },
    async updateRoutes({ routes }) {
      return await (await network()).updateRoutes(routes?.Routes ?? []);
    },
    async addARPNeighbors({ neighbors }) {
      if (neighbors !== undefined) await (await network()).addNeighbours(neighbors);
      return {};
    },
    async listInterfaces() {
      return await (await network()).listInterfaces();
    },
    async listRoutes() {
      return await (await network()).listRoutes();
    },
  };
}
