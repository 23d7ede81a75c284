import type { EvaluationInput } from "./evaluate.ts";

/** Under which condition two layers may be compared; `always` is none. */
export type Condition = "always" | "at the start" | "one sample" | "one group" | "one channel per group";

const cached = new Map<Condition, readonly EvaluationInput[]>();

/**
 * Three probe sets [2, 4, 4, 8] with 4 groups, so that all index sets differ: two with v0, v1 around their starting
 * values, one at them. x has another scale and offset per channel, as activations do. v0 stays below v1: graphs
 * that part only where v0 has overtaken v1, such as Max(v0, v1) and v1, count as one. A condition holds on all three.
 */
export function probes(condition: Condition = "always"): readonly EvaluationInput[] {
  let made = cached.get(condition);
  if (made === undefined) {
    const trained = condition !== "at the start";
    const samples = condition === "one sample" ? 1 : 2;
    const groups = condition === "one group" ? 1 : condition === "one channel per group" ? channels : 4;
    made = [[1, trained], [2, false], [3, trained]].map(([set, trained]) => ({
      ...probe(set as number, trained as boolean, samples),
      groups,
    }));
    cached.set(condition, made);
  }
  return made;
}

const [height, width, channels] = [4, 4, 8];

function probe(set: number, trained: boolean, samples: number): EvaluationInput {
  const vector = (name: number, centre: number, spread: number) =>
    Float64Array.from({ length: channels }, (_, c) => centre + spread * (2 * uniform(set, name, c) - 1));
  const scales = vector(0, 1.1, 0.5), offsets = vector(1, 0, 0.5);
  const x = Float64Array.from(
    { length: samples * height * width * channels },
    (_, i) => offsets[i % channels]! + scales[i % channels]! * bell(set, 2, i),
  );
  return {
    shape: [samples, height, width, channels],
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
