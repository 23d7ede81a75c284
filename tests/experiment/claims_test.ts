import assert from "node:assert/strict";
import { bootstrapInterval, judge, verdictOf } from "../../lib/experiment/mod.ts";
import { integers } from "../../lib/experiment/_claims.ts";
import { normalQuantile, studentQuantile } from "../../lib/experiment/_quantiles.ts";

const close = (actual: number, expected: number, tolerance: number) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected} within ${tolerance}`);

/** Standard normal draws by Box and Muller, from the private integer generator. */
function normals(seed: number): () => number {
  const below = integers(seed);
  const uniform = () => (below(2 ** 30) + 0.5) / 2 ** 30;
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

Deno.test("quantiles are those of the printed tables", () => {
  for (
    const [freedom, expected] of [[1, 12.7062], [2, 4.3027], [4, 2.7764], [9, 2.2622], [30, 2.0423]] as const
  ) {
    close(studentQuantile(0.95, freedom), expected, 5e-5);
  }
  close(studentQuantile(0.99, 5), 4.0321, 5e-5);
  close(normalQuantile(0.95), 1.959964, 1e-6);
});

/** Share of intervals that hold the truth. 600 repetitions of 95%: two standard errors are 1.8 points. */
function coverage(
  interval: (draw: () => number, repetition: number) => readonly [number, number],
  truth: number,
) {
  const draw = normals(7);
  let hits = 0;
  const repetitions = 600;
  for (let i = 0; i < repetitions; i++) {
    const [lo, hi] = interval(draw, i);
    if (lo <= truth && truth <= hi) hits++;
  }
  return hits / repetitions;
}

Deno.test("intervals of a mean cover what they say, also with few seeds", () => {
  for (const n of [3, 4, 5, 10, 30]) {
    const share = coverage((draw, i) => {
      const values = Array.from({ length: n }, () => 5 + 2 * draw());
      return bootstrapInterval(values, undefined, { seed: i, resamples: 1000 }).interval;
    }, 5);
    // Discrete resampling at 3 and 4 values makes the interval a little wide or narrow: one point is allowed for.
    assert.ok(share > 0.95 - 0.028 && share <= 0.99, `${n} seeds: ${share}`);
  }
});

Deno.test("intervals of a difference cover what they say, with unequal groups and spreads", () => {
  const share = coverage((draw, i) => {
    const a = Array.from({ length: 4 }, () => 1 + 3 * draw());
    const b = Array.from({ length: 7 }, () => 0.5 * draw());
    return bootstrapInterval(a, b, { seed: i, resamples: 1000 }).interval;
  }, 1);
  assert.ok(share > 0.922 && share <= 0.99, String(share));
});

Deno.test("pairing by seed removes what the seeds share", () => {
  const draw = normals(3);
  const shared = Array.from({ length: 5 }, () => 10 * draw());
  const sample = (shift: number) =>
    new Map(shared.map((value, seed) => [seed, value + shift + 0.1 * draw()]));
  const [a, b] = [sample(1), sample(0)];
  const paired = bootstrapInterval(a, b);
  assert.equal(paired.paired, true);
  assert.equal(paired.seeds, 5);
  const width = ({ interval: [lo, hi] }: typeof paired) => hi - lo;
  const unpaired = bootstrapInterval([...a.values()], [...b.values()]);
  assert.equal(unpaired.paired, false);
  assert.ok(width(paired) < width(unpaired) / 10);
  b.delete(0);
  assert.equal(bootstrapInterval(a, b).paired, false, "other seeds: not paired");
  assert.equal(bootstrapInterval(a, b).seeds, 4);
});

Deno.test("intervals are deterministic, in the unit of the values, and depend on the seed", () => {
  const values = [91.213, 91.508, 91.131, 90.872, 90.977, 91.694, 91.349, 90.741];
  const once = bootstrapInterval(values, undefined, { seed: 4 });
  assert.deepEqual(once, bootstrapInterval(values, undefined, { seed: 4 }));
  assert.notDeepEqual(once.interval, bootstrapInterval(values, undefined, { seed: 5 }).interval);
  const scaled = bootstrapInterval(values.map((value) => 10 * value), undefined, { seed: 4 });
  close(scaled.interval[0], 10 * once.interval[0], 1e-9);
  assert.deepEqual(bootstrapInterval([2, 2, 2]).interval, [2, 2]);
});

Deno.test("too little to go on: one value, none, or one that is not finite", () => {
  assert.deepEqual(bootstrapInterval([3]).interval, [-Infinity, Infinity]);
  assert.ok(Number.isNaN(bootstrapInterval([]).estimate));
  assert.deepEqual(bootstrapInterval([1, NaN, 2]).interval, [NaN, NaN]);
  assert.deepEqual(bootstrapInterval([1, Infinity, 2]).interval, [NaN, NaN]);
});

Deno.test("verdicts follow from interval, threshold, direction and number of seeds", () => {
  const verdict = (lo: number, hi: number, direction: "above" | "below", seeds = 3) =>
    verdictOf({ estimate: (lo + hi) / 2, interval: [lo, hi], seeds }, direction, 0);
  assert.equal(verdict(0.1, 2, "above"), "reproduced");
  assert.equal(verdict(-2, -0.1, "above"), "not reproduced");
  assert.equal(verdict(-2, -0.1, "below"), "reproduced");
  assert.equal(verdict(0.1, 2, "below"), "not reproduced");
  assert.equal(verdict(-1, 1, "above"), "inconclusive");
  assert.equal(verdict(0, 0, "above"), "inconclusive");
  assert.equal(verdict(1, 2, "above", 2), "inconclusive");
  assert.equal(verdict(NaN, NaN, "above"), "inconclusive");
  const claim = { id: "c", statement: "s", measure: "m", direction: "above", threshold: 0 } as const;
  assert.equal(judge(claim, undefined).verdict, "not run at this scale");
  const judged = judge(claim, bootstrapInterval([1, 1.1, 0.9]));
  assert.equal(judged.verdict, "reproduced");
  assert.equal(judged.seeds, 3);
});

Deno.test("a claim that is false by a hair is seldom called reproduced", () => {
  const draw = normals(11);
  let wrong = 0;
  for (let i = 0; i < 600; i++) {
    const values = Array.from({ length: 3 }, draw);
    const { verdict } = judge(
      { id: "c", statement: "s", measure: "m", direction: "above", threshold: 0 },
      bootstrapInterval(values, undefined, { seed: i, resamples: 1000 }),
    );
    if (verdict === "reproduced") wrong++;
  }
  assert.ok(wrong / 600 < 0.045, `${wrong} of 600`); // 2.5% is meant
});
