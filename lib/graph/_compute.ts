import { aggregate, batch, channel, type Extent, full, group, scalar, space } from "./_extent.ts";
import type { ExtendedOp } from "./extended.ts";
import type { Aggregation, IndexSet } from "./types.ts";

/** A node's numbers, kept once per place where they may differ, in the order batch, space, channel. */
export interface Value {
  readonly extent: Extent;
  readonly data: Float64Array;
}

/** Sizes of the tensor at hand (`places` = height times width) and the epsilon of every safe primitive. */
export interface Setting {
  readonly samples: number;
  readonly places: number;
  readonly channels: number;
  readonly groups: number;
  readonly epsilon: number;
}

type Unary = (a: number, epsilon: number) => number;
type Binary = (a: number, b: number, epsilon: number) => number;

/** |b| no smaller than epsilon, with the sign of b; zero counts as positive. */
const denominator = (b: number, epsilon: number) => (b >= 0 ? 1 : -1) * Math.max(Math.abs(b), epsilon);

const unary: Partial<Record<ExtendedOp, Unary>> = {
  Neg: (a) => -a,
  Sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  Tanh: (a) => Math.tanh(a),
  Exp: (a) => Math.exp(a),
  Log: (a, epsilon) => Math.sign(a) * Math.log(Math.abs(a) + epsilon),
  Abs: (a) => Math.abs(a),
  Square: (a) => a * a,
  Sqrt: (a, epsilon) => Math.sign(a) * Math.sqrt(Math.abs(a) + epsilon),
  Sign: (a) => Math.sign(a),
  LogSlope: (a, epsilon) => a === 0 ? 0 : 1 / (Math.abs(a) + epsilon),
  SqrtSlope: (a, epsilon) => a === 0 ? 0 : 0.5 / Math.sqrt(Math.abs(a) + epsilon),
};

const binary: Partial<Record<ExtendedOp, Binary>> = {
  Add: (a, b) => a + b,
  Mul: (a, b) => a * b,
  Div: (a, b, epsilon) => a / denominator(b, epsilon),
  Max: (a, b) => Math.max(a, b),
  Gate: (d, b, epsilon) => Math.abs(b) >= epsilon ? d : 0,
};

/** d where a > b, half at a tie, 0 where a < b; where either is NaN d goes on, so that the NaN stays visible. */
const pass = (d: number, a: number, b: number) => a < b ? 0 : a === b ? d / 2 : d;

/** Applies an element-wise operation to broadcast values. */
export function elementwise(op: ExtendedOp, inputs: readonly Value[], setting: Setting): Value {
  const extent = inputs.reduce((joined, input) => joined | input.extent, scalar);
  const [a, b, c] = inputs.map((input) => broadcast(input, extent, setting));
  const { epsilon } = setting;
  const data = new Float64Array(a!.length);
  const one = unary[op], two = binary[op];
  if (one) {
    for (let i = 0; i < data.length; i++) data[i] = one(a![i]!, epsilon);
  } else if (two) {
    for (let i = 0; i < data.length; i++) data[i] = two(a![i]!, b![i]!, epsilon);
  } else {
    for (let i = 0; i < data.length; i++) data[i] = pass(a![i]!, b![i]!, c![i]!);
  }
  return { extent, data };
}

/** The mean over an index set of a, of its squares (rms), or of its squared deviations (std): before any root. */
export function rawMoment(op: Aggregation, a: Value, axes: IndexSet, setting: Setting): Value {
  const extent = aggregate(a.extent, axes);
  if (op === "mean") return meanOf(a, extent, setting);
  const squares = new Float64Array(a.data.length);
  if (op === "rms") {
    for (let i = 0; i < squares.length; i++) squares[i] = a.data[i]! * a.data[i]!;
  } else {
    const centre = broadcast(meanOf(a, extent, setting), a.extent, setting);
    for (let i = 0; i < squares.length; i++) {
      const deviation = a.data[i]! - centre[i]!;
      squares[i] = deviation * deviation;
    }
  }
  return meanOf({ extent: a.extent, data: squares }, extent, setting);
}

/** The moment that a raw moment stands for: itself if a mean, else sqrt(raw + epsilon). */
export function finishMoment(op: Aggregation, raw: Value, epsilon: number): Value {
  if (op === "mean") return raw;
  return { extent: raw.extent, data: raw.data.map((value) => Math.sqrt(value + epsilon)) };
}

/** Sums over batch, height and width of the full-shape tensor that `a` stands for: [C]. */
export function channelSum(a: Value, setting: Setting): Value {
  const mean = meanOf(a, aggregate(a.extent, "bwh"), setting);
  const data = broadcast(mean, channel, setting).map((value) => value * setting.samples * setting.places);
  return { extent: channel, data };
}

/** The numbers of a value at a wider extent (the same array if it is no wider). */
export function broadcast(value: Value, extent: Extent, setting: Setting): Float64Array {
  if (value.extent === extent) return value.data;
  if (value.extent === scalar) return new Float64Array(sizeOf(extent, setting)).fill(value.data[0]!);
  const out = new Float64Array(sizeOf(extent, setting));
  walk(extent, value.extent, setting, (wide, narrow) => {
    out[wide] = value.data[narrow]!;
  });
  return out;
}

/** The mean of a value over the dimensions that `extent` lacks. */
function meanOf(value: Value, extent: Extent, setting: Setting): Value {
  if (value.extent === extent) return value;
  const data = new Float64Array(sizeOf(extent, setting));
  walk(value.extent, extent, setting, (wide, narrow) => {
    data[narrow]! += value.data[wide]!;
  });
  const count = value.data.length / data.length;
  for (let i = 0; i < data.length; i++) data[i]! /= count;
  return { extent, data };
}

/** Visits every place of a wide extent together with the place of a narrower one that it belongs to. */
function walk(
  wide: Extent,
  narrow: Extent,
  setting: Setting,
  visit: (wide: number, narrow: number) => void,
): void {
  const samples = wide & batch ? setting.samples : 1;
  const places = wide & space ? setting.places : 1;
  const lanes = lanesOf(wide, setting);
  const narrowLanes = lanesOf(narrow, setting);
  const narrowPlaces = narrow & space ? setting.places : 1;
  const perLane = lanes / narrowLanes;
  let at = 0;
  for (let n = 0; n < samples; n++) {
    for (let p = 0; p < places; p++) {
      const base = ((narrow & batch ? n : 0) * narrowPlaces + (narrow & space ? p : 0)) * narrowLanes;
      for (let c = 0; c < lanes; c++) visit(at++, base + Math.floor(c / perLane));
    }
  }
}

function lanesOf(extent: Extent, { channels, groups }: Setting): number {
  if ((extent & channel) === channel) return channels;
  return extent & group ? groups : 1;
}

/** How many numbers a value of this extent holds. */
export function sizeOf(extent: Extent, setting: Setting): number {
  return (extent & batch ? setting.samples : 1) * (extent & space ? setting.places : 1) *
    lanesOf(extent, setting);
}

/** The value at x's full shape [N, H, W, C]. */
export function atFullShape(value: Value, setting: Setting): Float64Array {
  return broadcast(value, full, setting);
}
