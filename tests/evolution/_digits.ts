/** A space that costs nothing to search: vectors of digits, scored by how near they are to two targets. */
import type { Candidate, Draws, Evaluation, Space } from "../../lib/evolution/mod.ts";
import { integerBelow } from "../../lib/evolution/mod.ts";

export type Digits = readonly number[];
const LENGTH = 6;

/** Six digits of 0 to 9; the last one is dead, as nodes of a graph can be: it changes nothing. */
export const digits: Space<Digits> = {
  fresh: (draws) => Array.from(draws.integers(LENGTH, 10)),
  mutate: (parent, draws: Draws) => parent.with(integerBelow(draws, LENGTH), integerBelow(draws, 10)),
  encode: (genotype) => genotype.join(""),
  decode: (text) => [...text].map(Number),
  screen: (genotype) => (genotype[0] === 0 ? "leading zero" : null),
  hash: (genotype) => genotype.slice(0, LENGTH - 1).join("-"),
};

const targets: readonly Digits[] = [[9, 9, 9, 9, 9], [5, 6, 7, 8, 9]];

/** The score on each of two anchors: minus the distance to its target. */
export function scoresOf(genotype: Digits): number[] {
  return targets.map((target) => -target.reduce((sum, digit, i) => sum + Math.abs(digit - genotype[i]!), 0));
}

/** A quality test that about half of the candidates fail, then the scores. Depends on the candidate alone. */
export function evaluateDigits({ genotype }: Candidate<Digits>): Evaluation {
  const quality = genotype[1]! + genotype[2]!;
  const test = { name: "quality", work: 10, value: quality, seconds: 0.01 };
  if (quality < 9) return { rejectedBy: "quality", stages: [test] };
  return {
    scores: scoresOf(genotype),
    stages: [test, { name: "training", work: 100, seconds: 0.1 }],
  };
}

export const names = { anchors: ["nines", "ladder"], stages: ["quality", "training"] } as const;
