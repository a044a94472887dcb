/** ttRPC by descriptors instead of tables: for tests, where the two have to understand each other. */
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import type { ServiceClient } from "../call.ts";
import { createServiceClient } from "../client.ts";
import { type RegisteredService, registerHandlers, type ServiceHandlers } from "../service.ts";
import type { CallOptions, TtrpcClient } from "./client.ts";
import type { CallContext } from "./service.ts";

/** Typed functions for the service's methods. The client keeps the ownership of the stream. */
export function createTtrpcClient<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  client: TtrpcClient,
): ServiceClient<Methods, CallOptions> {
  return createServiceClient(service, client);
}

/** Handlers as serveTtrpc takes them; `this` is kept, so an instance of a class will do. */
export function registerService<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods, CallContext>,
): RegisteredService<CallContext> {
  return registerHandlers(service, handlers);
}
