/** The calls about interfaces, routes, neighbours, name servers and localhost; the code behind them is loaded when the first comes. */
import { HearthError } from "../../errors.ts";
import type { AgentService } from "../../gen/agent_pb.ts";
import type { Log } from "../../log.ts";
import type { HandlersOf } from "../../rpc/ttrpc/service.ts";
import type { LocalhostConnections } from "./localhost.ts";
import type { GuestNameServers } from "./names.ts";

type NetworkHandlers = Pick<
  Required<HandlersOf<typeof AgentService>>,
  | "updateInterface"
  | "updateRoutes"
  | "updateRules"
  | "addARPNeighbors"
  | "listInterfaces"
  | "listRoutes"
  | "serveNames"
  | "nextNameQuery"
  | "answerNameQuery"
  | "connectLocalhost"
  | "readLocalhost"
  | "writeLocalhost"
  | "closeLocalhost"
>;

export function networkHandlers(log: Log): NetworkHandlers {
  const network = () => import("./network.ts");
  let loading: Promise<GuestNameServers> | undefined;
  const names = (): Promise<GuestNameServers> => {
    loading ??= import("./names.ts").then((module) => new module.GuestNameServers(log));
    return loading;
  };
  let loadingLocalhost: Promise<LocalhostConnections> | undefined;
  const localhost = (): Promise<LocalhostConnections> => {
    loadingLocalhost ??= import("./localhost.ts").then((module) => new module.LocalhostConnections());
    return loadingLocalhost;
  };
  return {
    async updateInterface({ interface: wanted }, { signal }) {
      if (wanted === undefined) throw new HearthError("invalid-argument", "update interface: none given");
      return await (await network()).updateInterface(wanted, signal);
    },
    async updateRoutes({ routes, tables }) {
      return await (await network()).updateRoutes(routes?.Routes ?? [], tables);
    },
    async updateRules({ rules, gone }) {
      await (await import("./rules.ts")).updateRules(rules, gone);
      return {};
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
    async serveNames({ address }) {
      await (await names()).serve(address);
      return {};
    },
    async nextNameQuery(_request, { signal }) {
      return await (await names()).next(signal);
    },
    async answerNameQuery({ id, message }) {
      (await names()).answer(id, message);
      return {};
    },
    async connectLocalhost({ ip6, port }) {
      return { id: await (await localhost()).connect(ip6, port) };
    },
    async readLocalhost({ id }) {
      return { data: await (await localhost()).read(id) };
    },
    async writeLocalhost({ id, data }) {
      await (await localhost()).write(id, data);
      return {};
    },
    async closeLocalhost({ id }) {
      (await localhost()).close(id);
      return {};
    },
  };
}
