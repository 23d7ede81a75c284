import type { Writer } from "./_writer.ts";

/** The value types that kernels use. */
export type ValueType = "i32" | "f32" | "f64" | "v128";

/** A variable of a function. */
export interface Local {
  readonly index: number;
  readonly type: ValueType;
}

/** An instruction with its operands: written in stack order when the function is assembled. */
export type Code = (out: Writer) => void;

/** What an instruction takes: other code, a variable to read, or a number, which is an i32 constant. */
export type Operand = Code | Local | number;

function push(out: Writer, operand: Operand): void {
  if (typeof operand === "function") return operand(out);
  if (typeof operand === "number") {
    out.byte(0x41);
    return out.signed(operand);
  }
  out.byte(0x20);
  out.unsigned(operand.index);
}

type Unary = (a: Operand) => Code;
type Binary = (a: Operand, b: Operand) => Code;
type Ternary = (a: Operand, b: Operand, c: Operand) => Code;

function instruction(...bytes: readonly number[]): (...operands: Operand[]) => Code {
  return (...operands) => (out) => {
    for (const operand of operands) push(out, operand);
    out.bytes(bytes);
  };
}

/** The two-byte opcode of a vector instruction, in LEB128. */
function vector(opcode: number): (...operands: Operand[]) => Code {
  return opcode < 128 ? instruction(0xfd, opcode) : instruction(0xfd, (opcode & 127) | 128, opcode >> 7);
}

type Access = (address: Operand, offset?: number) => Code;
type Store = (address: Operand, value: Operand, offset?: number) => Code;
type LaneLoad = (address: Operand, value: Operand, lane: number, offset?: number) => Code;

/** A load; `align` is the exponent of the natural alignment. The offset is added to the address, in bytes. */
function load(bytes: readonly number[], align: number): Access {
  return (address, offset = 0) => (out) => {
    push(out, address);
    out.bytes(bytes);
    out.unsigned(align);
    out.unsigned(offset);
  };
}

function store(bytes: readonly number[], align: number): Store {
  return (address, value, offset = 0) => (out) => {
    push(out, address);
    push(out, value);
    out.bytes(bytes);
    out.unsigned(align);
    out.unsigned(offset);
  };
}

function lane(opcode: number, align: number): LaneLoad {
  return (address, value, index, offset = 0) => (out) => {
    store([0xfd, opcode], align)(address, value, offset)(out);
    out.byte(index);
  };
}

function extract(opcode: number): (a: Operand, index: number) => Code {
  return (a, index) => (out) => {
    push(out, a);
    out.bytes([0xfd, opcode, index]);
  };
}

/** Integers: addresses and counters. */
export const i32 = {
  add: instruction(0x6a) as Binary,
  sub: instruction(0x6b) as Binary,
  mul: instruction(0x6c) as Binary,
  divU: instruction(0x6e) as Binary,
  remU: instruction(0x70) as Binary,
  and: instruction(0x71) as Binary,
  or: instruction(0x72) as Binary,
  shl: instruction(0x74) as Binary,
  shrU: instruction(0x76) as Binary,
  /** Zeros above the highest one, below the lowest one; 32 of zero. */
  clz: instruction(0x67) as Unary,
  ctz: instruction(0x68) as Unary,
  eqz: instruction(0x45) as Unary,
  eq: instruction(0x46) as Binary,
  ne: instruction(0x47) as Binary,
  ltS: instruction(0x48) as Binary,
  ltU: instruction(0x49) as Binary,
  gtS: instruction(0x4a) as Binary,
  gtU: instruction(0x4b) as Binary,
  leS: instruction(0x4c) as Binary,
  leU: instruction(0x4d) as Binary,
  geS: instruction(0x4e) as Binary,
  geU: instruction(0x4f) as Binary,
  load: load([0x28], 2),
  store: store([0x36], 2),
};

/** Single numbers of 32 bits. */
export const f32 = {
  const: (value: number): Code => (out) => {
    out.byte(0x43);
    out.bytes(new Uint8Array(Float32Array.of(value).buffer));
  },
  add: instruction(0x92) as Binary,
  sub: instruction(0x93) as Binary,
  mul: instruction(0x94) as Binary,
  div: instruction(0x95) as Binary,
  demote: instruction(0xb6) as Unary,
  load: load([0x2a], 2),
  store: store([0x38], 2),
};

/** Single numbers of 64 bits. */
export const f64 = {
  const: (value: number): Code => (out) => {
    out.byte(0x44);
    out.bytes(new Uint8Array(Float64Array.of(value).buffer));
  },
  add: instruction(0xa0) as Binary,
  sub: instruction(0xa1) as Binary,
  mul: instruction(0xa2) as Binary,
  div: instruction(0xa3) as Binary,
  max: instruction(0xa5) as Binary,
  sqrt: instruction(0x9f) as Unary,
  fromI32: instruction(0xb7) as Unary,
  promote: instruction(0xbb) as Unary,
  load: load([0x2b], 3),
  store: store([0x39], 3),
};

/** Vectors as bits. */
export const v128 = {
  load: load([0xfd, 0], 4),
  /** One number of 32 bits into every lane. */
  loadSplat32: load([0xfd, 9], 2),
  /** One or two numbers into the low lanes, zeros above. */
  loadZero32: load([0xfd, 0x5c], 2),
  loadZero64: load([0xfd, 0x5d], 3),
  /** A vector with one lane taken from memory. */
  loadLane32: lane(0x56, 2),
  store: store([0xfd, 11], 4),
  storeLane32: lane(0x5a, 2),
  storeLane64: lane(0x5b, 3),
  and: vector(0x4e) as Binary,
  /** a and not b. */
  andNot: vector(0x4f) as Binary,
  or: vector(0x50) as Binary,
  xor: vector(0x51) as Binary,
  not: vector(0x4d) as Unary,
  /** Bits of a where the mask is 1, of b where it is 0. */
  select: vector(0x52) as Ternary,
  /** Whether any bit is 1: an i32. */
  anyTrue: vector(0x53) as Unary,
};

/** Blocks of memory; sizes in bytes. */
export const memory = {
  /** Copies from the second address to the first. */
  copy: instruction(0xfc, 0x0a, 0, 0) as Ternary,
  /** Sets every byte from the first address on to the second operand. */
  fill: instruction(0xfc, 0x0b, 0) as Ternary,
};

/** Four integers. */
export const i32x4 = {
  const: (value: number): Code => (out) => {
    out.bytes([0xfd, 12]);
    out.bytes(new Uint8Array(Int32Array.of(value, value, value, value).buffer));
  },
  add: vector(0xae) as Binary,
  sub: vector(0xb1) as Binary,
  shl: vector(0xab) as Binary,
  shrS: vector(0xac) as Binary,
  shrU: vector(0xad) as Binary,
};

/** Four numbers of 32 bits. */
export const f32x4 = {
  const: (value: number): Code => (out) => {
    out.bytes([0xfd, 12]);
    out.bytes(new Uint8Array(Float32Array.of(value, value, value, value).buffer));
  },
  splat: vector(0x13) as Unary,
  extract: extract(0x1f),
  eq: vector(0x41) as Binary,
  ne: vector(0x42) as Binary,
  lt: vector(0x43) as Binary,
  gt: vector(0x44) as Binary,
  le: vector(0x45) as Binary,
  ge: vector(0x46) as Binary,
  abs: vector(0xe0) as Unary,
  neg: vector(0xe1) as Unary,
  sqrt: vector(0xe3) as Unary,
  add: vector(0xe4) as Binary,
  sub: vector(0xe5) as Binary,
  mul: vector(0xe6) as Binary,
  div: vector(0xe7) as Binary,
  /** The maximum, NaN if either is: many machine instructions on x64. */
  max: vector(0xe9) as Binary,
  /** b < a ? b : a, one machine instruction: a if either is NaN. */
  pmin: vector(0xea) as Binary,
  /** a < b ? b : a, one machine instruction: a if either is NaN. */
  pmax: vector(0xeb) as Binary,
  fromI32x4: vector(0xfa) as Unary,
  /** a * b + c, fused or not as the machine does it fast. Only where {@link relaxedSimd} says so. */
  relaxedMadd: vector(0x105) as Ternary,
  /** c - a * b, fused or not as the machine does it fast. Only where {@link relaxedSimd} says so. */
  relaxedNmadd: vector(0x106) as Ternary,
};

/** Two numbers of 64 bits. */
export const f64x2 = {
  add: vector(0xf0) as Binary,
  /** The two low lanes of four 32-bit numbers. */
  promoteLow: vector(0x5f) as Unary,
};

/** Four lanes out of the eight of two vectors; lanes of b count from 4. */
export function shuffle32(a: Operand, b: Operand, lanes: readonly [number, number, number, number]): Code {
  return (out) => {
    push(out, a);
    push(out, b);
    out.bytes([0xfd, 13, ...lanes.flatMap((index) => [0, 1, 2, 3].map((byte) => 4 * index + byte))]);
  };
}

/** Puts a value into a variable. */
export function set(local: Local, value: Operand): Code {
  return (out) => {
    push(out, value);
    out.byte(0x21);
    out.unsigned(local.index);
  };
}

/** Puts a value into a variable and is that value. */
export function tee(local: Local, value: Operand): Code {
  return (out) => {
    push(out, value);
    out.byte(0x22);
    out.unsigned(local.index);
  };
}

/** Instructions one after the other. */
export function sequence(...codes: readonly Code[]): Code {
  return (out) => {
    for (const code of codes) code(out);
  };
}

/** Runs the body again and again while the condition, computed after it, is not zero. */
export function doWhile(body: Code, condition: Operand): Code {
  return (out) => {
    out.bytes([0x03, 0x40]);
    body(out);
    push(out, condition);
    out.bytes([0x0d, 0, 0x0b]);
  };
}

/** Runs one of two bodies. */
export function when(condition: Operand, then: Code, otherwise?: Code): Code {
  return (out) => {
    push(out, condition);
    out.bytes([0x04, 0x40]);
    then(out);
    if (otherwise) {
      out.byte(0x05);
      otherwise(out);
    }
    out.byte(0x0b);
  };
}

/** One of two values. */
export function choose(type: ValueType, condition: Operand, then: Operand, otherwise: Operand): Code {
  return (out) => {
    push(out, condition);
    out.bytes([0x04, typeCodes[type]]);
    push(out, then);
    out.byte(0x05);
    push(out, otherwise);
    out.byte(0x0b);
  };
}

/** Calls a function of the same module. */
export function call(index: number, ...operands: Operand[]): Code {
  return (out) => {
    for (const operand of operands) push(out, operand);
    out.byte(0x10);
    out.unsigned(index);
  };
}

/** Counts a variable from `from` up to below `end` by `step`; the body runs at least once unless `end` <= `from` at the start. */
export function countUp(counter: Local, from: Operand, end: Operand, step: Operand, body: Code): Code {
  return sequence(
    set(counter, from),
    when(
      i32.ltS(counter, end),
      doWhile(sequence(body, set(counter, i32.add(counter, step))), i32.ltS(counter, end)),
    ),
  );
}

/** The bytes of the value types in the binary format. */
export const typeCodes: Readonly<Record<ValueType, number>> = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b };
