/**
 * Steers TCP connections within a network namespace, whatever their port, to one listening socket: by a program of some 30
 * instructions that the kernel asks for the socket of a new connection. It ends with the descriptors. Linux 5.9.
 * Source: linux/bpf.h, Documentation/bpf/prog_sk_lookup.rst, Documentation/bpf/standardization/instruction-set.rst.
 */
import { asFd, type Fd, OwnedFd } from "./fd.ts";
import { addressOf, check, lazyLibc, struct } from "./libc.ts";

const libc = lazyLibc({ syscall: { args: ["i64", "i64", "ptr", "u64"], returns: "i64" } });
/** Source: asm/unistd_64.h. */
const SYS_BPF = 321n;

const MAP_CREATE = 0;
const MAP_UPDATE_ELEM = 2;
const PROG_LOAD = 5;
const LINK_CREATE = 28;
const MAP_TYPE_SOCKMAP = 15;
const PROG_TYPE_SK_LOOKUP = 30;
const ATTACH_SK_LOOKUP = 36;
/** Bytes of union bpf_attr up to the last field that we fill. */
const MAP_ATTR_BYTES = 20;
const ELEM_ATTR_BYTES = 32;
const PROG_ATTR_BYTES = 72;
const LINK_ATTR_BYTES = 16;

/** Offsets in struct bpf_sk_lookup. Addresses are in network byte order. */
const FAMILY = 8;
const PROTOCOL = 12;
const REMOTE_IP4 = 16;
const REMOTE_IP6 = 20;
const LOCAL_IP4 = 40;
const LOCAL_IP6 = 44;
const INGRESS_IFINDEX = 64;
/** Source: net/net_namespace.h, LOOPBACK_IFINDEX. */
const LOOPBACK = 1;
const AF_INET = 2;
const IPPROTO_TCP = 6;
/** The first four bytes of 127.0.0.1, and the last four of ::1, as a little-endian number. */
const LOCALHOST_IP4 = 0x0100007f;
const LOCALHOST_IP6_END = 0x01000000;
const SK_PASS = 1;

const FN_MAP_LOOKUP_ELEM = 1;
const FN_SK_RELEASE = 86;
const FN_SK_ASSIGN = 124;

/** Registers: R0 is what a function returns, R1 to R3 are its arguments, R6 and R7 outlive it, R10 is the stack's end. */
const [R0, R1, R2, R3, R6, R7, R10] = [0, 1, 2, 3, 6, 7, 10] as const;

type Label = "ip4" | "steer" | "pass";
interface Instruction {
  readonly code: number;
  readonly to?: number;
  readonly from?: number;
  /** Of memory, or of a jump. */
  readonly offset?: number | Label;
  readonly value?: number;
}

const load = (to: number, from: number, offset: number): Instruction => ({ code: 0x61, to, from, offset });
const storeZero = (to: number, offset: number): Instruction => ({ code: 0x62, to, offset });
const copy = (to: number, from: number): Instruction => ({ code: 0xbf, to, from });
const set = (to: number, value: number): Instruction => ({ code: 0xb7, to, value });
const add = (to: number, value: number): Instruction => ({ code: 0x07, to, value });
const jump = (offset: Label): Instruction => ({ code: 0x05, offset });
const jumpIf = (to: number, value: number, offset: Label): Instruction => ({ code: 0x15, to, value, offset });
const jumpUnless = (to: number, value: number, offset: Label): Instruction => ({ code: 0x55, to, value, offset });
const jumpIfEqual = (to: number, from: number, offset: Label): Instruction => ({ code: 0x1d, to, from, offset });
const jumpUnlessEqual = (to: number, from: number, offset: Label): Instruction => ({ code: 0x5d, to, from, offset });
const call = (value: number): Instruction => ({ code: 0x85, value });
/** Two instructions long; the second one is empty. */
const setMap = (to: number, fd: Fd): Instruction[] => [{ code: 0x18, to, from: 1, value: fd }, { code: 0 }];
const exit: Instruction = { code: 0x95 };

type Program = readonly (Instruction | Label)[];

/** What is not for 127.0.0.1 or ::1 passes. */
const TO_LOCALHOST: Program = [
  load(R2, R1, FAMILY),
  jumpIf(R2, AF_INET, "ip4"),
  ...[0, 4, 8].flatMap((part) => [load(R2, R1, LOCAL_IP6 + part), jumpUnless(R2, 0, "pass")]),
  load(R2, R1, LOCAL_IP6 + 12),
  jumpUnless(R2, LOCALHOST_IP6_END, "pass"),
  jump("steer"),
  "ip4",
  load(R2, R1, LOCAL_IP4),
  jumpUnless(R2, LOCALHOST_IP4, "pass"),
];

/**
 * What comes from within the namespace passes: that to an address of loopback, and that from an address to itself, which the
 * kernel tells to be of that address's interface. Linux 5.17.
 */
const FROM_OUTSIDE: Program = [
  load(R2, R1, INGRESS_IFINDEX),
  jumpIf(R2, LOOPBACK, "pass"),
  load(R2, R1, FAMILY),
  jumpIf(R2, AF_INET, "ip4"),
  ...[0, 4, 8, 12].flatMap((part) => [
    load(R2, R1, REMOTE_IP6 + part),
    load(R3, R1, LOCAL_IP6 + part),
    jumpUnlessEqual(R2, R3, "steer"),
  ]),
  jump("pass"),
  "ip4",
  load(R2, R1, REMOTE_IP4),
  load(R3, R1, LOCAL_IP4),
  jumpIfEqual(R2, R3, "pass"),
];

/** Gives TCP connections that `condition` lets through the socket in slot 0 of the map; the kernel finds all others theirs. */
function program(map: Fd, condition: Program): Program {
  return [
    copy(R6, R1),
    load(R2, R1, PROTOCOL),
    jumpUnless(R2, IPPROTO_TCP, "pass"),
    ...condition,
    "steer",
    storeZero(R10, -4),
    ...setMap(R1, map),
    copy(R2, R10),
    add(R2, -4),
    call(FN_MAP_LOOKUP_ELEM),
    jumpIf(R0, 0, "pass"),
    copy(R7, R0),
    copy(R1, R6),
    copy(R2, R7),
    set(R3, 0),
    call(FN_SK_ASSIGN),
    copy(R1, R7),
    call(FN_SK_RELEASE),
    "pass",
    set(R0, SK_PASS),
    exit,
  ];
}

/** Eight bytes an instruction; a jump counts from the instruction after it. */
function assemble(source: Program): Uint8Array {
  const instructions: Instruction[] = [];
  const labels = new Map<Label, number>();
  for (const entry of source) {
    if (typeof entry === "string") labels.set(entry, instructions.length);
    else instructions.push(entry);
  }
  const { bytes, view } = struct(instructions.length * 8);
  for (const [index, { code, to = 0, from = 0, offset = 0, value = 0 }] of instructions.entries()) {
    const distance = typeof offset === "string" ? (labels.get(offset) ?? 0) - index - 1 : offset;
    view.setUint8(index * 8, code);
    view.setUint8(index * 8 + 1, to | (from << 4));
    view.setInt16(index * 8 + 2, distance, true);
    view.setInt32(index * 8 + 4, value, true);
  }
  return bytes;
}

/**
 * Those to 127.0.0.1 and ::1, from now until it is disposed of, in the network namespace that `netns` is open on. `listener`
 * is a listening TCP socket of that namespace; a dual-stack one gets connections of both families. Fails with a SystemError
 * where the kernel has no such programs, or does not let this process have them.
 */
export function steerLocalhost(listener: Fd, netns: Fd): Disposable {
  return steer(listener, netns, TO_LOCALHOST);
}

/** Likewise those that come over an interface other than loopback, whatever they are to. */
export function steerArrivals(listener: Fd, netns: Fd): Disposable {
  return steer(listener, netns, FROM_OUTSIDE);
}

function steer(listener: Fd, netns: Fd, condition: Program): Disposable {
  using map = createSocketMap();
  putSocket(map.fd, listener);
  using loaded = loadProgram(map.fd, condition);
  const { bytes, view } = struct(LINK_ATTR_BYTES);
  view.setUint32(0, loaded.fd, true);
  view.setUint32(4, netns, true);
  view.setUint32(8, ATTACH_SK_LOOKUP, true);
  return new OwnedFd(bpf(LINK_CREATE, bytes, "attach program to network namespace"));
}

function createSocketMap(): OwnedFd {
  const { bytes, view } = struct(MAP_ATTR_BYTES);
  const [keyBytes, valueBytes, entries] = [4, 4, 1];
  for (const [index, value] of [MAP_TYPE_SOCKMAP, keyBytes, valueBytes, entries].entries()) {
    view.setUint32(index * 4, value, true);
  }
  return new OwnedFd(bpf(MAP_CREATE, bytes, "make map of sockets"));
}

function putSocket(map: Fd, socket: Fd): void {
  const { bytes: key } = struct(4);
  const { bytes: value, view: valueView } = struct(4);
  valueView.setUint32(0, socket, true);
  const { bytes, view } = struct(ELEM_ATTR_BYTES);
  view.setUint32(0, map, true);
  view.setBigUint64(8, addressOf(key), true);
  view.setBigUint64(16, addressOf(value), true);
  bpf(MAP_UPDATE_ELEM, bytes, "put socket into map");
}

function loadProgram(map: Fd, condition: Program): OwnedFd {
  const code = assemble(program(map, condition));
  const license = new TextEncoder().encode("Apache-2.0\0");
  const { bytes, view } = struct(PROG_ATTR_BYTES);
  view.setUint32(0, PROG_TYPE_SK_LOOKUP, true);
  view.setUint32(4, code.length / 8, true);
  view.setBigUint64(8, addressOf(code), true);
  view.setBigUint64(16, addressOf(license), true);
  view.setUint32(68, ATTACH_SK_LOOKUP, true);
  return new OwnedFd(bpf(PROG_LOAD, bytes, "load program"));
}

/** What it returns is a new descriptor, closed in children, or 0. */
function bpf(command: number, attributes: Uint8Array, what: string): Fd {
  const result = libc().syscall(SYS_BPF, BigInt(command), attributes, BigInt(attributes.length));
  return asFd(check(Number(result), `steer connections: ${what}`));
}
