/** Reads the reference values in tests/golden/evonorm, and compares with them. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type LayerGraph, validate } from "../../lib/graph/mod.ts";

const folder = new URL("../golden/evonorm/", import.meta.url);

/** What graphs.json says of a graph on one input set. */
export interface GoldenOutcome {
  readonly finite_forward: boolean;
  readonly finite_grad: boolean;
  readonly finite_eval: boolean;
  readonly well_conditioned: boolean;
}

export interface GoldenGraph {
  readonly id: number;
  readonly name?: string;
  readonly source: string;
  readonly nodes: LayerGraph["nodes"];
  readonly active: number[];
  readonly n_active: number;
  readonly contains_x: boolean;
  readonly batch_independent: boolean;
  readonly class: number | null;
  readonly buffers_after_one_step: Record<string, number[]>;
  readonly generic: GoldenOutcome;
  readonly init: GoldenOutcome;
}

export interface GoldenGraphs {
  readonly shape_nhwc: [number, number, number, number];
  readonly groups: number;
  readonly duplicates: number[][];
  readonly graphs: GoldenGraph[];
}

export interface GoldenLayers {
  readonly layers: string[];
  readonly cases: Record<
    string,
    { shape_nhwc: [number, number, number, number]; groups: number; file: string }
  >;
}

export const goldenGraphs = readJson<GoldenGraphs>("graphs/graphs.json");

export function goldenGraph(golden: GoldenGraph): LayerGraph {
  return validate({ nodes: golden.nodes });
}

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(new URL(path, folder), "utf8"));
}

/** The float32 tensors of a safetensors file, as float64. A lean reader: this room's tests use no other room. */
export function readTensors(path: string): Map<string, Float64Array> {
  const bytes = readFileSync(new URL(path, folder));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(
    bytes.toString("utf8", 8, start),
  );
  const tensors = new Map<string, Float64Array>();
  for (const [name, { data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = data_offsets.map((offset) => start + offset) as [number, number];
    tensors.set(name, Float64Array.from(new Float32Array(Uint8Array.from(bytes.subarray(from, to)).buffer)));
  }
  return tensors;
}

/**
 * Reference values were computed in float64 and rounded to float32, which moves a number by at most 6e-8 of itself;
 * the rest is room for another order of summation.
 */
export const tolerance = 1e-7;

/** Fails unless the worst difference is within the tolerance of the reference's largest magnitude. */
export function assertClose(actual: Float64Array, reference: Float64Array, what: string): void {
  assert.equal(actual.length, reference.length, `${what}: length`);
  const scale = reference.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
  assert.ok(worst <= tolerance * scale, `${what}: worst error ${worst} at a scale of ${scale}`);
}

export function allFinite(...arrays: Float64Array[]): boolean {
  return arrays.every((array) => array.every(Number.isFinite));
}

/** Deterministic numbers around 0 for tests that need more inputs (a linear congruential generator). */
export function numbers(seed: number): (length: number) => Float64Array {
  let state = seed;
  return (length) =>
    Float64Array.from({ length }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return 4 * (state / 2 ** 32) - 2;
    });
}
