import assert from "node:assert/strict";
import {
  average,
  bestCandidates,
  bestSoFar,
  dominates,
  fromColumns,
  MemoryJournal,
  paretoFront,
  Population,
  rank,
  recordColumns,
  repeatableColumns,
  rerank,
  search,
  toColumns,
  tournament,
  tournamentSize,
  winner,
} from "../../lib/evolution/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { digits, names } from "./_digits.ts";
import { digitsSearch, run } from "./_helpers.ts";

/** Scores with many ties: tenths on `anchors` anchors. */
function scoresOf(seed: number, candidates: number, anchors: number): number[][] {
  const draws = stream(seed).child("scores");
  return Array.from(
    { length: candidates },
    () => Array.from(draws.integers(anchors, 11), (tenth) => tenth / 10),
  );
}

Deno.test("Pareto front: the vectors that no other dominates, against all pairs", () => {
  for (const [seed, anchors] of [[1, 1], [2, 2], [3, 3], [4, 5]] as const) {
    const scores = scoresOf(seed, 120, anchors);
    const plain = scores.flatMap((p, i) => (scores.some((q) => dominates(q, p)) ? [] : [i]));
    assert.deepEqual(paretoFront(scores), plain);
    for (const u of [0, 0.3, 0.999]) {
      assert.equal(winner(scores, "pareto", u), plain[Math.floor(u * plain.length)]);
    }
    const means = scores.map(average);
    assert.equal(winner(scores, "average", 0.7), means.indexOf(Math.max(...means)));
    const last = scores.map((vector) => vector.at(-1)!);
    assert.equal(winner(scores, { anchor: anchors - 1 }, 0.7), last.indexOf(Math.max(...last)));
  }
  assert.throws(() => winner([], "pareto", 0), /at least one candidate: current number is 0/);
  assert.throws(() => winner([[1, 2]], { anchor: 2 }, 0), /from 0 to 1: current anchor is 2/);
});

Deno.test("tournament size: 5%, halves up, at least 1, for every population up to the paper's", () => {
  for (let n = 1; n <= 2500; n++) {
    assert.equal(tournamentSize(n), Math.max(1, Math.floor((n + 10) / 20)), `${n}`);
  }
  assert.equal(tournamentSize(7, 1), 7);
});

Deno.test("population: the newest accepted ones, also as they stood some results ago", () => {
  const population = new Population<string>(4, 6);
  const accepted: number[] = [];
  for (let index = 0; index < 200; index++) {
    if (index % 3 !== 0) {
      population.add({ index, genotype: `${index}`, scores: [index] });
      accepted.push(index);
    }
    for (let back = 0; back <= 6 && back <= index; back++) {
      const expected = accepted.filter((one) => one < index + 1 - back).slice(-4);
      assert.deepEqual(population.asOf(index + 1 - back).map((member) => member.index), expected);
    }
  }
});

Deno.test("tournament: each member is drawn equally often; the best drawn wins", () => {
  const population = Array.from(
    { length: 40 },
    (_, index) => ({ index, genotype: null, scores: [index, -index] }),
  );
  const draws = stream(1);
  const wins = new Map<number, number>();
  for (let i = 0; i < 8000; i++) {
    const { index } = tournament(population, draws, "pareto");
    wins.set(index, (wins.get(index) ?? 0) + 1);
  }
  // All are on the front: a member wins 200 of 8000 times, with a standard deviation of 14.
  assert.equal(wins.size, 40);
  for (const [index, count] of wins) {
    assert.ok(Math.abs(count - 200) < 4.5 * 14, `${index} won ${count} times`);
  }
  const byAnchor = Array.from({ length: 500 }, () => tournament(population, draws, { anchor: 0 }, 0.5).index);
  // That the 20 drawn all lie among the lowest 25 of 40 happens once in 2.6 million.
  assert.ok(Math.min(...byAnchor) >= 25 && new Set(byAnchor).size > 3);
});

Deno.test("rank: front after front by average, or by a number; equal ones keep their order", () => {
  const scores = scoresOf(5, 60, 3);
  const candidates = scores.map((vector, index) => ({ index, scores: vector }));
  const ranked = rank(candidates, "pareto");
  assert.deepEqual(
    ranked.map(({ index }) => index).sort((a, b) => a - b),
    candidates.map(({ index }) => index),
  );
  ranked.forEach((later, i) => {
    assert.ok(!ranked.slice(0, i).some((earlier) => dominates(later.scores, earlier.scores)));
  });
  const front = new Set(paretoFront(scores));
  assert.deepEqual(new Set(ranked.slice(0, front.size).map(({ index }) => index)), front);
  const means = rank(candidates, "average").map((one) => average(one.scores));
  assert.deepEqual(means, [...means].sort((a, b) => b - a));
  assert.deepEqual(
    rank([{ scores: [1], id: "a" }, { scores: [2], id: "b" }, { scores: [1], id: "c" }], "average")
      .map(({ id }) => id),
    ["b", "a", "c"],
  );
  assert.equal(rank(candidates, "pareto", 7).length, 7);
});

Deno.test("after a search: the best of a journal, each function once, and re-ranking by another evaluation", async () => {
  const { records, progress } = await run(digitsSearch());
  const best = bestCandidates(records, digits, "average", 10);
  assert.equal(best.length, 10);
  assert.equal(best[0]!.index, progress.best!.index);
  assert.equal(new Set(best.map(({ genotype }) => digits.hash!(genotype))).size, 10);
  let running = 0;
  let most = 0;
  const held = await rerank(best, async ({ genotype }) => {
    most = Math.max(most, ++running);
    await Promise.resolve();
    running--;
    return [-genotype[4]!];
  }, { workers: 3 });
  assert.equal(most, 3);
  assert.deepEqual(
    held.map(({ scores }) => scores[0]),
    best.map(({ genotype }) => -genotype[4]!).sort((a, b) => b - a),
  );
  for (const { before, index, scoresBefore } of held) {
    assert.deepEqual([index, scoresBefore], [best[before]!.index, best[before]!.scores]);
  }
  const curve = bestSoFar(records);
  assert.ok(curve.every((value, i) => i === 0 || Number.isNaN(curve[i - 1]!) || value >= curve[i - 1]!));
});

Deno.test("records: columns hold all of them; repeatable ones all but seconds", async () => {
  const { records } = await run(digitsSearch());
  const columns = toColumns(records, names);
  assert.deepEqual(Object.keys(columns), recordColumns(names).map(({ name }) => name));
  assert.deepEqual(toColumns(fromColumns(columns, names), names), columns);
  assert.deepEqual(
    fromColumns(columns, names).map(({ stages: _, ...rest }) => rest),
    records.map(({ stages: _, ...rest }) => rest),
  );
  const dropped = recordColumns(names).filter((column) =>
    !repeatableColumns(names).some(({ name }) => name === column.name)
  );
  assert.deepEqual(
    dropped.map(({ name }) => name),
    ["screen_seconds", "hash_seconds", "quality_seconds", "training_seconds"],
  );
});

Deno.test("journal: one in memory refuses another search's identity", async () => {
  const journal = new MemoryJournal();
  await search(digitsSearch({ journal, budget: { candidates: 10 } }));
  await search(digitsSearch({ journal, budget: { candidates: 20 } }));
  assert.equal(journal.records.length, 20);
  await assert.rejects(
    search(digitsSearch({ journal, identity: { seed: 2 } })),
    /must belong to the same search, .*"seed":2.* current journal is of .*"seed":1/,
  );
});
