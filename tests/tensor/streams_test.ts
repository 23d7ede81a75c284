import assert from "node:assert/strict";
import { normalQuantile } from "../../lib/tensor/_normal_quantile.ts";
import { philox } from "../../lib/tensor/_philox.ts";
import { type Stream, stream } from "../../lib/tensor/streams.ts";

const hex = (words: string) => Uint32Array.from(words.split(" "), (word) => parseInt(word, 16));

Deno.test("philox gives the published known answers", () => {
  // philox4x32 10 of Random123's tests/kat_vectors: counter, key, result.
  const answers = [
    ["0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    ["ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    ["243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ] as const;
  for (const [counter, key, expected] of answers) {
    const out = new Uint32Array(4);
    philox(hex(counter), [...hex(key)] as [number, number], out, 0, 1);
    assert.deepEqual(out, hex(expected));
  }
});

Deno.test("philox counts through the 32-bit boundary", () => {
  const counter = hex("fffffffe 0 5 6");
  const run = new Uint32Array(4 * 4 + 1);
  philox(counter, [1, 2], run, 1, 4);
  assert.deepEqual(counter, hex("2 1 5 6"));
  for (const [i, start] of ["fffffffe 0 5 6", "ffffffff 0 5 6", "0 1 5 6", "1 1 5 6"].entries()) {
    const one = new Uint32Array(4);
    philox(hex(start), [1, 2], one, 0, 1);
    assert.deepEqual(run.slice(4 * i + 1, 4 * i + 5), one);
  }
});

Deno.test("normalQuantile agrees with 40-digit arithmetic", () => {
  const reference = [
    [0, -6.3379577545537893],
    [1, -6.1664295178197502],
    [1000, -5.0398511259687115],
    [1e6, -3.4997689887583814],
    [3e8, -1.476915138469175],
    [322122547, -1.4395314704450153], // either side of the change of formula
    [322122548, -1.4395314688002133],
    [1e9, -0.72955655307587401],
    [2147483647, -2.9180993729166227e-10],
    [2147483648, 2.9180993729166227e-10],
    [4e9, 1.4857137558957359],
    [4294967295, 6.3379577545537893],
  ] as const;
  for (const [word, expected] of reference) {
    const error = Math.abs(normalQuantile(word) / expected - 1);
    assert.ok(error < 3e-15, `word ${word}: relative error ${error}`);
  }
});

Deno.test("the first values of streams are what they were", () => {
  // Changing any of these changes every result of the kit: a new version of the hash, said in the log, not an edit.
  const bits = (values: Float32Array) => [...new Uint32Array(values.buffer)];
  assert.deepEqual(bits(stream(0).uniform(4)), [1060795564, 1024567392, 1049903514, 1065175730]);
  assert.deepEqual(bits(stream("normlab").child("init").child("conv1").normal(4)), [
    3214469425,
    3210197821,
    3211045979,
    3207006390,
  ]);
  assert.deepEqual([...stream(7).integers(8, 1000)], [668, 561, 841, 174, 453, 397, 199, 375]);
  assert.deepEqual([...stream(7).child(3).permutation(10)], [1, 3, 6, 5, 0, 4, 9, 7, 2, 8]);
  assert.equal(stream(1).float(), 15809225 / 2 ** 24);
});

Deno.test("a million normals are what they were", () => {
  // Positions weigh in, so that no reordering passes.
  const bits = new Uint32Array(stream(5).normal(1_000_000).buffer);
  let checksum = 0;
  for (const word of bits) checksum = Math.imul(checksum, 31) + word | 0;
  assert.equal(checksum, 52527765);
});

Deno.test("a child does not depend on what was drawn, a stream goes on where it stopped", () => {
  const parent = stream(3);
  const fresh = parent.child("a").uniform(5);
  parent.normal(1001);
  parent.child("b").permutation(7);
  assert.deepEqual(parent.child("a").uniform(5), fresh);

  const whole = stream(3).uniform(103);
  const pieces = stream(3);
  const joined = [1, 3, 0, 4, 5, 7, 11, 2, 70].flatMap((n) => [...pieces.uniform(n)]);
  assert.deepEqual(joined, [...whole]);
  const single = stream(3);
  assert.deepEqual(Array.from(whole, () => single.float()), [...whole]);
});

Deno.test("names are told apart by their path", () => {
  const paths: [string, Stream][] = [
    ["0", stream(0)],
    ["1", stream(1)],
    ["-1", stream(-1)],
    ["''", stream("")],
    ["0/''", stream(0).child("")],
    ["0/a/b", stream(0).child("a").child("b")],
    ["0/ab", stream(0).child("ab")],
    ["0/a/b as one", stream(0).child("a/b")],
    ["0/b/a", stream(0).child("b").child("a")],
    ["a/b", stream("a").child("b")],
    ["0/ä", stream(0).child("ä")],
  ];
  const seen = new Map<string, string>();
  for (const [name, draws] of paths) {
    const key = draws.uniform(4).join();
    assert.equal(seen.get(key), undefined, `${name} is the same as ${seen.get(key)}`);
    seen.set(key, name);
  }
  assert.deepEqual(stream(12).uniform(4), stream("12").uniform(4));
  assert.deepEqual(stream(0).child(12).uniform(4), stream(0).child("12").uniform(4));
});

Deno.test("uniform fills [lo, hi) evenly", () => {
  const n = 1_000_000;
  const values = stream("uniform").uniform(n);
  const bins = new Array(1000).fill(0);
  for (const value of values) {
    assert.ok(value >= 0 && value < 1);
    bins[Math.floor(value * bins.length)]++;
  }
  // 999 degrees of freedom: mean 999, deviation 44.7; five deviations each way.
  const chiSquare = sumOf(bins, (count) => (count - n / 1000) ** 2 / (n / 1000));
  assert.ok(chiSquare > 775 && chiSquare < 1223, `chi-square ${chiSquare}`);
  const { mean, variance } = momentsOf(values);
  assert.ok(Math.abs(mean - 0.5) < 5 * Math.sqrt(1 / 12 / n), `mean ${mean}`);
  assert.ok(Math.abs(variance - 1 / 12) < 5 * Math.sqrt(1 / 180 / n), `variance ${variance}`);

  // Bounds so narrow that rounding would reach `hi` in half of the draws.
  for (const [lo, hi] of [[1, 1 + 2 ** -22], [-1 - 2 ** -22, -1], [-1e-44, 0], [-3, 5]] as const) {
    const narrow = stream("narrow").uniform(10_000, lo, hi);
    const [low, high] = [Math.fround(lo), Math.fround(hi)];
    assert.ok(narrow.every((value) => value >= low && value < high), `outside of [${lo}, ${hi})`);
    assert.ok(new Set(narrow).size > 1);
  }
});

Deno.test("normal has the moments, the tails and the shape of the normal distribution", () => {
  const n = 1_000_000;
  const values = stream("normal").normal(n);
  const { mean, variance, skewness, kurtosis } = momentsOf(values);
  const deviation = (v: number) => 5 * Math.sqrt(v / n); // five standard errors
  assert.ok(Math.abs(mean) < deviation(1), `mean ${mean}`);
  assert.ok(Math.abs(variance - 1) < deviation(2), `variance ${variance}`);
  assert.ok(Math.abs(skewness) < deviation(6), `skewness ${skewness}`);
  assert.ok(Math.abs(kurtosis - 3) < deviation(24), `kurtosis ${kurtosis}`);
  // P(|z| > k) for k = 1..4
  for (const [k, p] of [[1, 0.3173105], [2, 0.0455003], [3, 0.0026998], [4, 6.334e-5]] as const) {
    const beyond = values.reduce((count, value) => count + (Math.abs(value) > k ? 1 : 0), 0);
    assert.ok(Math.abs(beyond - n * p) < 5 * Math.sqrt(n * p * (1 - p)), `${beyond} beyond ${k}`);
  }
  const moved = momentsOf(stream("normal").normal(n, 3, 0.5));
  assert.ok(Math.abs(moved.mean - 3) < deviation(0.25) && Math.abs(moved.variance - 0.25) < deviation(0.125));
  assert.deepEqual(stream(0).normal(3, 2, 0), new Float32Array([2, 2, 2]));
});

Deno.test("integers have no modulo bias", () => {
  // below = 3 * 2^29: plain modulo would give the lower third 3/8 of the draws.
  const n = 300_000;
  const below = 3 * 2 ** 29;
  const thirds = [0, 0, 0];
  for (const value of stream("bias").integers(n, below)) {
    assert.ok(value >= 0 && value < below);
    thirds[Math.floor(value / 2 ** 29)]!++;
  }
  const chiSquare = sumOf(thirds, (count) => (count - n / 3) ** 2 / (n / 3));
  assert.ok(chiSquare < 20, `chi-square ${chiSquare} of 2 degrees of freedom`); // p = 5e-5
  assert.deepEqual(stream(0).integers(3, 1), new Int32Array(3));
  assert.ok(stream(0).integers(1000, 2 ** 31).every((value) => value >= 0));
});

Deno.test("permutation gives every order equally often", () => {
  const counts = new Map<string, number>();
  const draws = stream("orders");
  const n = 24_000;
  for (let i = 0; i < n; i++) {
    const order = draws.permutation(4).join();
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  assert.equal(counts.size, 24);
  const chiSquare = sumOf([...counts.values()], (count) => (count - 1000) ** 2 / 1000);
  assert.ok(chiSquare < 60, `chi-square ${chiSquare} of 23 degrees of freedom`); // p = 4e-5
  const large = draws.permutation(10_000);
  assert.deepEqual(large.slice().sort(), Int32Array.from({ length: 10_000 }, (_, i) => i));
  assert.deepEqual([...draws.permutation(0)], []);
  assert.deepEqual([...draws.permutation(1)], [0]);
});

Deno.test("children are independent of each other, of their parent and from one draw to the next", () => {
  const n = 20_000;
  const root = stream("independence");
  const series = [root.uniform(n)];
  for (let i = 0; i < 12; i++) series.push(root.child(i).uniform(n));
  const limit = 5 / Math.sqrt(n); // five standard errors of a correlation
  for (const [i, a] of series.entries()) {
    for (const b of series.slice(i + 1)) {
      assert.ok(Math.abs(correlation(a, b)) < limit, "two streams are correlated");
    }
    for (const lag of [1, 2, 3, 4]) {
      assert.ok(
        Math.abs(correlation(a.subarray(lag), a.subarray(0, n - lag))) < limit,
        `correlated at lag ${lag}`,
      );
    }
  }
});

Deno.test("what cannot be drawn is refused", () => {
  const draws = stream(0);
  const before = stream(0).float();
  for (const n of [-1, 1.5, NaN, Infinity, 2 ** 31]) {
    assert.throws(() => draws.uniform(n), RangeError);
    assert.throws(() => draws.normal(n), RangeError);
    assert.throws(() => draws.integers(n, 2), RangeError);
    assert.throws(() => draws.permutation(n), RangeError);
  }
  for (const below of [0, -1, 1.5, NaN, 2 ** 31 + 1]) {
    assert.throws(() => draws.integers(1, below), {
      name: "RangeError",
      message: `Cannot draw integers as 'below' must be an integer from 1 to 2^31: current below is ${below}`,
    });
  }
  for (const [lo, hi] of [[1, 1], [2, 1], [NaN, 1], [0, Infinity], [1e40, 1e41], [1, 1 + 1e-9]] as const) {
    assert.throws(() => draws.uniform(1, lo, hi), RangeError);
  }
  assert.throws(() => draws.normal(1, NaN), /'mean' must be finite/);
  assert.throws(() => draws.normal(1, 0, -1), /'std' must be 0 or more/);
  assert.throws(() => draws.normal(1, 0, Infinity), /'std' must be 0 or more/);
  for (const name of [1.5, NaN, 2 ** 53]) {
    assert.throws(() => stream(name), RangeError);
    assert.throws(() => draws.child(name), RangeError);
  }
  for (const name of [undefined, null, {}, true]) {
    assert.throws(() => stream(name as unknown as string), TypeError);
  }
  assert.equal(draws.float(), before, "a refused call must draw nothing");
});

function sumOf(values: readonly number[], term: (value: number) => number): number {
  return values.reduce((sum, value) => sum + term(value), 0);
}

function momentsOf(values: Float32Array) {
  const central = (order: number, mean: number) =>
    values.reduce((sum, value) => sum + (value - mean) ** order, 0) / values.length;
  const mean = central(1, 0);
  const variance = central(2, mean);
  return {
    mean,
    variance,
    skewness: central(3, mean) / variance ** 1.5,
    kurtosis: central(4, mean) / variance ** 2,
  };
}

function correlation(a: Float32Array, b: Float32Array): number {
  const [ma, mb] = [momentsOf(a), momentsOf(b)];
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - ma.mean) * (b[i]! - mb.mean);
  return sum / a.length / Math.sqrt(ma.variance * mb.variance);
}
