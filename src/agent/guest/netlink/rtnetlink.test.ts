import { expect, test } from "bun:test";
import { decodeRoute, encodeRoute, type LinkRoute } from "./rtnetlink.ts";

test("routes survive encoding", () => {
  const route: LinkRoute = {
    family: "v4",
    table: 1000,
    destination: { bytes: Uint8Array.of(10, 0, 0, 0), prefixLength: 8 },
    gateway: Uint8Array.of(192, 168, 0, 1),
    source: Uint8Array.of(192, 168, 0, 2),
    linkIndex: 7,
    type: 1,
    scope: 0,
    flags: 4,
    protocol: 4,
    metric: 100,
    tos: 16,
    preference: 3,
    expires: 0,
    metrics: new Map([
      [2, 1400],
      [11, 7],
    ]),
    hops: [
      { gateway: Uint8Array.of(192, 168, 0, 3), linkIndex: 7, weight: 256, flags: 4 },
      { gateway: undefined, linkIndex: 8, weight: 1, flags: 0 },
    ],
  };
  expect(decodeRoute(encodeRoute(route))).toEqual(route);
  expect(decodeRoute(encodeRoute({ ...route, destination: undefined }))?.destination).toBeUndefined();
});
