/** The calls about interfaces, routes and neighbours; the code behind them is loaded when the first comes. */
import type { AgentService } from "../../gen/agent_pb.ts";
import type { HandlersOf } from "../../rpc/ttrpc/service.ts";

type NetworkHandlers = Pick<
  Required<HandlersOf<typeof AgentService>>,
  "updateInterface" | "updateRoutes" | "addARPNeighbors" | "listInterfaces" | "listRoutes"
>;

export function networkHandlers(): Partial<NetworkHandlers> {
  return {};
}
