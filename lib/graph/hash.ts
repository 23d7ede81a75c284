import { createHash } from "node:crypto";
import { evaluate, type EvaluationInput } from "./evaluate.ts";
import { canonical } from "./simplify.ts";
import type { LayerGraph } from "./types.ts";

/** Hashes are this many hexadecimal digits of sha256: 64 bits. */
const digits = 16;

/** The hash of a graph's canonical form: equal for writings that {@link canonical} makes one. 16 hex digits. */
export function canonicalHash(graph: LayerGraph): string {
  return sha256(JSON.stringify(canonical(graph)));
}

/**
 * The hash of what a graph computes: its outputs z on fixed probe inputs in training mode, rounded to 2^-30 (1e-9)
 * of their largest magnitude. Equal hash = the same layer under another name, not worth training again. Scale
 * counts: z and 2z differ. A graph with an output that is not finite has the hash of its canonical form. 16 hex digits.
 */
export function functionalHash(graph: LayerGraph): string {
  const reduced = canonical(graph);
  const outputs = probes().map((probe) => evaluate(reduced, probe).z);
  const scale = outputs.reduce((most, z) => z.reduce((m, value) => Math.max(m, Math.abs(value)), most), 0);
  if (!Number.isFinite(scale)) return sha256(`not finite ${JSON.stringify(reduced)}`);
  const steps = outputs.flatMap((z) => Array.from(z, (value) => Math.round(value * resolution(scale)) | 0));
  return sha256(scale.toExponential(8), Int32Array.from(steps));
}

// A power of two: simple fractions of the largest magnitude then fall on a step, never on the edge of two.
const resolution = (scale: number) => scale > 0 ? 2 ** 30 / scale : 0;

function sha256(text: string, numbers?: Int32Array): string {
  const hash = createHash("sha256").update(text);
  if (numbers) hash.update(numbers);
  return hash.digest("hex").slice(0, digits);
}

let cached: readonly EvaluationInput[] | undefined;

/**
 * Three probe sets [2, 4, 4, 8] with 4 groups, so that all index sets differ: two with v0, v1 around their starting
 * values, one at them. x has another scale and offset per channel, as activations do. v0 stays below v1: graphs
 * that part only where v0 has overtaken v1, such as Max(v0, v1) and v1, count as one.
 */
function probes(): readonly EvaluationInput[] {
  cached ??= [probe(1, true), probe(2, false), probe(3, true)];
  return cached;
}

function probe(set: number, trained: boolean): EvaluationInput {
  const [samples, height, width, channels] = [2, 4, 4, 8] as const;
  const vector = (name: number, centre: number, spread: number) =>
    Float64Array.from({ length: channels }, (_, c) => centre + spread * (2 * uniform(set, name, c) - 1));
  const scales = vector(0, 1.1, 0.5), offsets = vector(1, 0, 0.5);
  const x = Float64Array.from(
    { length: samples * height * width * channels },
    (_, i) => offsets[i % channels]! + scales[i % channels]! * bell(set, 2, i),
  );
  return {
    shape: [samples, height, width, channels],
    groups: 4,
    x,
    v0: vector(3, 0, trained ? 0.49 : 0),
    v1: vector(4, 1, trained ? 0.49 : 0),
  };
}

/** A number near the standard normal distribution: the sum of 12 uniform ones, free of the platform's log and cos. */
function bell(set: number, name: number, place: number): number {
  let sum = -6;
  for (let k = 0; k < 12; k++) sum += uniform(set, name, place * 12 + k);
  return sum;
}

/** A number in [0, 1), fixed by its set, name and place. */
function uniform(set: number, name: number, place: number): number {
  return mix((set * 16 + name) * 2 ** 16 + place) / 2 ** 32;
}

/** A 32-bit integer from an integer (the finaliser of MurmurHash3). */
function mix(value: number): number {
  let h = Math.imul(value + 1, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
