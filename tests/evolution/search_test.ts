import assert from "node:assert/strict";
import {
  bestSoFar,
  type Candidate,
  type CandidateRecord,
  graphSpace,
  inStages,
  integerBelow,
  paretoFront,
  search,
  type SearchProgress,
  type SearchSettings,
  tournament,
} from "../../lib/evolution/mod.ts";
import { active, canonicalHash, type LayerGraph, toJSON } from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { type Digits, digits, evaluateDigits, names, scoresOf } from "./_digits.ts";
import { bestAverage, digitsSearch, MortalJournal, repeatable, run, scrambled } from "./_helpers.ts";

/** The rules once more, plainly: all results so far in one list, everything looked up in it. */
function referenceHistory(
  seed: number,
  length: number,
  settings: Required<Pick<SearchSettings, "window" | "initialMembers" | "lookAhead">>,
) {
  const { window, initialMembers, lookAhead } = settings;
  const history: { genotype: Digits; scores: number[] | null; parent: number | null; origin: string }[] = [];
  for (let index = 0; index < length; index++) {
    const own = stream(seed).child(index);
    const known = history.slice(0, Math.max(0, index - lookAhead + 1));
    const accepted = known.flatMap((
      { genotype, scores },
      i,
    ) => (scores === null ? [] : [{ index: i, genotype, scores }]));
    const population = accepted.slice(-window);
    let parent: number | null = null;
    let origin = "initial";
    let genotype: Digits;
    if (population.length < initialMembers) genotype = digits.fresh(own.child("fresh"));
    else if (own.float() < 0.5) [origin, genotype] = ["fresh", digits.fresh(own.child("fresh"))];
    else {
      const draws = own.child("offspring");
      const won = tournament(population, draws, "pareto");
      [origin, parent, genotype] = ["offspring", won.index, digits.mutate(won.genotype, draws)];
    }
    const passes = genotype[0] !== 0 && genotype[1]! + genotype[2]! >= 9;
    history.push({ genotype, scores: passes ? scoresOf(genotype) : null, parent, origin });
  }
  return history;
}

Deno.test("search: the history is that of the rules written plainly, for several look-aheads", async () => {
  for (const lookAhead of [1, 2, 9]) {
    const settings = { window: 60, initialMembers: 5, lookAhead };
    const { records } = await run(digitsSearch({ settings }));
    const expected = referenceHistory(1, 400, settings);
    for (const { index, genotype, scores, parent, origin } of records) {
      const plain = expected[index]!;
      assert.deepEqual({ genotype, scores, parent, origin }, { ...plain, genotype: plain.genotype.join("") });
    }
    const origins = new Set(records.map(({ origin }) => origin));
    assert.deepEqual([...origins].sort(), ["fresh", "initial", "offspring"]);
  }
});

Deno.test("search: the same history with 1, 2 or 7 workers that finish in any order", async () => {
  const { records } = await run(digitsSearch({ workers: 1 }));
  assert.equal(records.length, 400);
  for (const workers of [1, 2, 7]) {
    for (const order of [1, 2]) {
      let most = 0;
      let running = 0;
      const evaluate = scrambled(evaluateDigits, stream(order).child(workers));
      const other = await run(digitsSearch({
        workers,
        evaluate: async (candidate) => {
          most = Math.max(most, ++running);
          const evaluation = await evaluate(candidate);
          running--;
          return evaluation;
        },
      }));
      assert.equal(most, workers);
      assert.equal(repeatable(other.records), repeatable(records));
    }
  }
  const another = await run(digitsSearch({ draws: stream(2) }));
  assert.notEqual(repeatable(another.records), repeatable(records));
});

Deno.test("search: goes on with each result, not when a timer says so", async () => {
  const timer = globalThis.setTimeout;
  // Timers that only ever fire at once: a search that waits for a later one stops here for good, which Deno reports.
  globalThis.setTimeout =
    ((callback: () => void, delay = 0) => (delay > 0 ? 0 : timer(callback, 0))) as typeof setTimeout;
  try {
    for (const lookAhead of [1, 8]) {
      for (const workers of [1, 3]) {
        const evaluate = scrambled(evaluateDigits, stream(3).child(workers));
        const { records } = await run(
          digitsSearch({ settings: { lookAhead }, workers, evaluate, journalSeconds: 0 }),
        );
        assert.equal(records.length, 400);
      }
    }
  } finally {
    globalThis.setTimeout = timer;
  }
});

Deno.test("search: the same history when workers and the search are killed at random and resumed", async () => {
  const expected = repeatable((await run(digitsSearch())).records);
  const chance = stream("kills");
  const kept: CandidateRecord[] = [];
  const evaluated = new Map<string, number>();
  let kills = 0;
  for (let finished = false; !finished;) {
    const journal = new MortalJournal(kept);
    const evaluate = scrambled(evaluateDigits, chance);
    const killer = new AbortController();
    try {
      await search(digitsSearch({
        journal,
        // What was not written when the process died is lost; here that is anything since the last writing.
        journalSeconds: chance.float() < 0.5 ? 0 : 5,
        workers: 1 + integerBelow(chance, 7),
        signal: killer.signal,
        async evaluate(candidate) {
          if (kills < 12 && chance.float() < 0.03) {
            journal.die();
            killer.abort(new Error("killed"));
          }
          evaluated.set(candidate.hash!, (evaluated.get(candidate.hash!) ?? 0) + 1);
          return await evaluate(candidate);
        },
      }));
      finished = true;
    } catch (error) {
      assert.equal((error as Error).message, "killed");
      kills++;
    }
  }
  assert.equal(kills, 12);
  assert.equal(repeatable(kept), expected);
});

Deno.test("search: what an evaluation throws ends it, results before are kept, and it goes on from there", async () => {
  const expected = repeatable((await run(digitsSearch())).records);
  const kept: CandidateRecord[] = [];
  const failing = digitsSearch({
    journal: new MortalJournal(kept),
    evaluate: (candidate) => {
      if (candidate.index >= 100) throw new Error("no more memory");
      return evaluateDigits(candidate);
    },
  });
  await assert.rejects(search(failing), /no more memory/);
  assert.ok(kept.length >= 100 - 8 && kept.length <= 110, `${kept.length} results kept`);
  await search(digitsSearch({ journal: new MortalJournal(kept) }));
  assert.equal(repeatable(kept), expected);
});

Deno.test("search: duplicates are never evaluated, take the known result, and enter the population", async () => {
  const evaluations = new Map<string, number[]>();
  const { records, progress } = await run(digitsSearch({
    budget: { candidates: 1500 },
    workers: 7,
    evaluate: scrambled((candidate: Candidate<Digits>) => {
      evaluations.set(candidate.hash!, [...evaluations.get(candidate.hash!) ?? [], candidate.index]);
      return evaluateDigits(candidate);
    }, stream(5)),
    settings: { lookAhead: 30 },
  }));
  for (const [hash, indices] of evaluations) assert.equal(indices.length, 1, hash);
  const duplicates = records.filter(({ duplicateOf }) => duplicateOf !== null);
  assert.equal(progress.duplicates, duplicates.length);
  assert.ok(duplicates.length > 100);
  for (const { index, hash, duplicateOf, scores, rejectedBy, stages } of duplicates) {
    const original = records[duplicateOf!]!;
    assert.ok(original.index < index);
    assert.deepEqual([original.hash, original.duplicateOf], [hash, null]);
    assert.deepEqual([scores, rejectedBy], [original.scores, original.rejectedBy]);
    assert.deepEqual(stages.map(({ name }) => name), ["screen", "hash"]);
  }
  const inFlight = duplicates.filter(({ index, duplicateOf }) => index - duplicateOf! < 30);
  assert.ok(inFlight.length > 0, "some originals had no result yet when their duplicate was drawn");
  const parents = new Set(records.flatMap(({ parent }) => parent ?? []));
  assert.ok(duplicates.some(({ index }) => parents.has(index)), "a duplicate won a tournament");
});

Deno.test("search: planted rewrites of layer graphs are found by their functional hash", async () => {
  const { fresh, ...space } = graphSpace({ nodes: 4 });
  const originals = Array.from({ length: 30 }, (_, i) => fresh(stream(31).child(i)));
  /** The same function, written with one dead node more and the arguments of commutative operations exchanged. */
  const rewrite = ({ nodes }: LayerGraph): LayerGraph => ({
    nodes: [
      { op: "Exp", inputs: [0] },
      ...nodes.map((node) => {
        const inputs = node.inputs.map((input) => (input < 4 ? input : input + 1));
        return { ...node, inputs: node.op === "Div" ? inputs : inputs.reverse() };
      }),
    ],
  });
  const planted = originals.flatMap((graph) => [graph, rewrite(graph)]);
  let evaluated = 0;
  const { records, progress } = await run<LayerGraph>({
    draws: stream(1),
    identity: {},
    space: { ...space, fresh: (draws) => planted[integerBelow(draws, planted.length)]! },
    settings: { freshShare: 1 },
    anchors: ["size"],
    stages: ["count"],
    evaluate: ({ genotype }) => {
      evaluated++;
      return { scores: [active(genotype).length], stages: [{ name: "count", seconds: 0 }] };
    },
    budget: { candidates: 600 },
  });
  const classes = new Map<string, Set<string>>();
  for (const { hash, genotype } of records) {
    if (hash !== null) classes.set(hash, (classes.get(hash) ?? new Set()).add(genotype));
  }
  for (const original of originals) {
    const hash = records.find(({ genotype }) => genotype === toJSON(original))?.hash;
    if (hash) assert.ok(classes.get(hash)!.has(toJSON(rewrite(original))), toJSON(original));
  }
  assert.equal(evaluated, classes.size);
  assert.equal(progress.evaluated + progress.duplicates + progress.rejected["inactive x"]!, 600);
  assert.ok(classes.size < 30 && classes.size > 5);
});

Deno.test("search: counts add up after every report, and costs are those of the records", async () => {
  const reports: SearchProgress<Digits>[] = [];
  const { records, progress } = await run(digitsSearch({
    workers: 3,
    evaluate: scrambled(evaluateDigits, stream(8)),
    onProgress: (report) => reports.push(report),
  }));
  assert.ok(reports.length >= 2);
  assert.deepEqual(reports.at(-1)!.candidates, 400);
  for (
    const { candidates, evaluated, accepted, rejected, duplicates, population, front, best, running }
      of reports
  ) {
    const failed = Object.values(rejected).reduce((sum, count) => sum + count, 0);
    assert.equal(accepted + failed + duplicates, candidates);
    assert.equal(evaluated, accepted + (rejected["quality"] ?? 0));
    assert.equal(best === null, accepted === 0);
    assert.ok(front.length <= accepted && running <= 3 && population <= candidates);
  }
  const first = records.filter(({ duplicateOf }) => duplicateOf === null);
  const of = (test: string) => first.filter(({ rejectedBy }) => rejectedBy === test).length;
  assert.deepEqual(progress.rejected, { "leading zero": of("leading zero"), quality: of("quality") });
  const members = first.filter(({ scores }) => scores !== null);
  assert.equal(progress.accepted, members.length);
  const front = paretoFront(members.map(({ scores }) => scores!)).map((place) => members[place]!.index);
  assert.deepEqual(progress.front.map(({ index }) => index), front);
  assert.equal(bestAverage(records), bestSoFar(records).at(-1));
  assert.equal(
    progress.best!.index,
    members.find(({ scores }) => (scores![0]! + scores![1]!) / 2 === bestAverage(records))!.index,
  );
  const stages = records.flatMap((record) => record.stages);
  assert.equal(progress.work, stages.reduce((sum, { work = 0 }) => sum + work, 0));
  assert.equal(progress.work, 10 * progress.evaluated + 100 * progress.accepted);
  const seconds = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  assert.ok(Math.abs(progress.seconds - seconds) < 1e-9 * seconds, "only the order of summation differs");
  assert.ok(progress.rate > 0 && progress.remainingSeconds === 0);
});

Deno.test("search: each budget ends it, a longer one goes on, and shorter histories are prefixes", async () => {
  const full = (await run(digitsSearch())).records;
  const whole = repeatable(full);
  const prefix = (records: readonly CandidateRecord[]) =>
    assert.equal(repeatable(records), repeatable(full.slice(0, records.length)));

  let started = 0;
  const counted = digitsSearch({
    evaluate: (candidate) => {
      started++;
      return evaluateDigits(candidate);
    },
    budget: { evaluations: 50 },
  });
  const evaluations = await run(counted);
  assert.equal(evaluations.ended, "evaluations");
  assert.deepEqual([evaluations.progress.evaluated, started], [50, 50], "nothing is evaluated in vain");
  prefix(evaluations.records);

  const work = await run(digitsSearch({ budget: { work: 5000, candidates: 400 } }));
  assert.equal(work.ended, "work");
  assert.ok(work.progress.work >= 5000 && work.progress.work < 5000 + 110);
  prefix(work.records);

  const lengths = [1, 3].map(async (slow) => {
    const { ended, records } = await run(digitsSearch({
      budget: { seconds: 3 },
      evaluate: (candidate) => {
        const evaluation = evaluateDigits(candidate);
        return { ...evaluation, stages: evaluation.stages.map((s) => ({ ...s, seconds: slow * s.seconds })) };
      },
    }));
    assert.equal(ended, "seconds");
    prefix(records);
    return records.length;
  });
  const [fast, slow] = await Promise.all(lengths);
  assert.ok(fast! > 2 * slow!, `${fast} candidates on the faster machine, ${slow} on the slower`);

  const elapsed = await run(digitsSearch({
    budget: { elapsedSeconds: 0.05 },
    evaluate: () => new Promise(() => {}),
  }));
  assert.equal(elapsed.ended, "elapsedSeconds");

  const kept: CandidateRecord[] = [];
  for (const candidates of [120, 120, 400]) {
    await search(digitsSearch({ journal: new MortalJournal(kept), budget: { candidates } }));
    assert.equal(kept.length, candidates);
  }
  assert.equal(repeatable(kept), whole);
});

Deno.test("search: evolution finds better digits than random search at the same budget", async () => {
  const best = async (seed: number, settings: SearchSettings) => {
    const { records } = await run(
      digitsSearch({ draws: stream(seed), settings, budget: { evaluations: 600 } }),
    );
    return bestAverage(records);
  };
  for (const criterion of ["pareto", "average", { anchor: 1 }] as const) {
    const evolved: number[] = [];
    const random: number[] = [];
    for (const seed of [1, 2, 3, 4, 5]) {
      evolved.push(await best(seed, { criterion, tournamentShare: 0.1 }));
      random.push(await best(seed, { criterion, freshShare: 1 }));
    }
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    assert.ok(mean(evolved) > mean(random), `${JSON.stringify(criterion)}: ${evolved} against ${random}`);
  }
});

Deno.test("search: random search without rejection evaluates every candidate", async () => {
  const { records, progress } = await run(digitsSearch({
    settings: { freshShare: 1, screen: false, reuse: false },
    evaluate: ({ genotype }) => ({ scores: scoresOf(genotype), stages: [{ name: "training", seconds: 1 }] }),
  }));
  assert.equal(progress.evaluated, 400);
  assert.deepEqual([progress.duplicates, progress.rejected], [0, {}]);
  assert.ok(
    records.every(({ origin, parent, hash }) => origin !== "offspring" && parent === null && hash === null),
  );
  const withTests = await run(digitsSearch({ settings: { freshShare: 1 } }));
  assert.deepEqual(
    records.map(({ genotype }) => genotype),
    withTests.records.map(({ genotype }) => genotype),
  );
});

Deno.test("search: candidates ended by their limits are recorded as such, and the search goes on", async () => {
  const { records, progress } = await run(digitsSearch({
    evaluate: (candidate) =>
      candidate.index % 5 === 0
        ? { rejectedBy: "memory limit", stages: [{ name: "training", seconds: 30 }] }
        : evaluateDigits(candidate),
  }));
  const ended = records.filter(({ rejectedBy, duplicateOf }) =>
    rejectedBy === "memory limit" && duplicateOf === null
  );
  assert.ok(ended.length > 20);
  assert.equal(progress.rejected["memory limit"], ended.length);
  assert.equal(progress.candidates, 400);
});

Deno.test("search: stages end with the first that a candidate fails, each with its cost", async () => {
  const ran: string[] = [];
  const stage = (name: string, passed: (candidate: Candidate<Digits>) => boolean, scores?: boolean) => ({
    name,
    run(candidate: Candidate<Digits>) {
      ran.push(name);
      return { passed: passed(candidate), work: 7, value: 2, ...(scores ? { scores: [1, 2] } : {}) };
    },
  });
  const evaluate = inStages([
    stage("quality", ({ index }) => index > 1),
    stage("training", ({ index }) => index > 2, true),
  ]);
  const at = (index: number) => evaluate({ index, genotype: [], hash: null }, new AbortController().signal);
  const seconds = (evaluation: Awaited<ReturnType<typeof at>>) => ({
    ...evaluation,
    stages: evaluation.stages.map(({ seconds, ...rest }) => (assert.ok(seconds >= 0), rest)),
  });
  const quality = { name: "quality", work: 7, value: 2 };
  const training = { name: "training", work: 7, value: 2 };
  assert.deepEqual(seconds(await at(1)), { rejectedBy: "quality", stages: [quality] });
  assert.deepEqual(seconds(await at(2)), { rejectedBy: "training", stages: [quality, training] });
  assert.deepEqual(seconds(await at(3)), { scores: [1, 2], stages: [quality, training] });
  assert.deepEqual(ran, ["quality", "quality", "training", "quality", "training"]);
  await assert.rejects(
    inStages([stage("quality", () => true)])(
      { index: 0, genotype: [], hash: null },
      new AbortController().signal,
    ),
    /the last one must give scores: current last stage is quality/,
  );
});

Deno.test("search: a space that holds nothing new ends as exhausted; an abort ends with its reason", async () => {
  const small = { ...digits, fresh: () => [5, 5, 5, 5, 5, 5], mutate: (parent: Digits) => parent };
  const { ended, progress } = await run(digitsSearch({ space: small, budget: { evaluations: 10 } }));
  assert.equal(ended, "exhausted");
  assert.equal(progress.evaluated, 1);
  const controller = new AbortController();
  let aborted = false;
  const waiting = search(digitsSearch({
    signal: controller.signal,
    evaluate: (_, signal) => {
      signal.addEventListener("abort", () => aborted = true);
      return new Promise(() => {});
    },
  }));
  setTimeout(() => controller.abort(new Error("enough")), 10);
  await assert.rejects(waiting, /enough/);
  assert.ok(aborted, "evaluations hear of the end");
});

Deno.test("search: journals of another search and wrong results are clear errors", async () => {
  const { records } = await run(digitsSearch({ budget: { candidates: 200 } }));
  const resume = (
    changes: Partial<Parameters<typeof digitsSearch>[0]>,
    kept: CandidateRecord[] = [...records],
  ) => search(digitsSearch({ journal: new MortalJournal(kept), ...changes }));
  await assert.rejects(resume({ draws: stream(2) }), /drawing candidate \d+ again must give what was kept/);
  await assert.rejects(resume({ settings: { freshShare: 0.9 } }), /again must give what was kept/);
  await assert.rejects(resume({}, records.slice(1)), /must be in order, next 0: current record is 1/);

  const refused = (changes: Parameters<typeof digitsSearch>[0], message: RegExp) =>
    assert.rejects(async () => await search(digitsSearch(changes)), { message });
  const stages = [{ name: "training", seconds: 1 }];
  await refused(
    { evaluate: () => ({ scores: [1], stages }) },
    /it must have 2 finite scores: current scores are 1$/,
  );
  await refused({ evaluate: () => ({ scores: [1, NaN], stages }) }, /current scores are 1, NaN/);
  await refused({ evaluate: () => ({ rejectedBy: "", stages }) }, /'rejectedBy' must name a test/);
  await refused({ evaluate: () => ({ rejectedBy: "x", stages: [] }) }, /at least one: current stage is none/);
  await refused(
    { evaluate: () => ({ rejectedBy: "x", stages: [{ name: "tea", seconds: 1 }] }) },
    /current stage is tea/,
  );
  await refused({ budget: {} }, /the budget must limit/);
  await refused({ budget: { candidates: 0 } }, /budget.candidates must be above 0/);
  await refused({ settings: { lookAhead: 0 } }, /lookAhead must be a whole number from 1/);
  await refused(
    { settings: { criterion: { anchor: 2 } } },
    /criterion.anchor must be a whole number from 0 to 1/,
  );
  await refused({ settings: { freshShare: 1.5 } }, /freshShare must be from 0 to 1/);
  await refused({ workers: 0 }, /workers must be a whole number from 1/);
  await refused({ anchors: ["a", "a"] }, /'anchors' must be different names/);
  await refused({ stages: ["hash"] }, /none of them screen or hash: current stages are hash/);
  assert.deepEqual(names.anchors.length, 2);
});

Deno.test("search: the example of the documentation", async () => {
  const { progress } = await run<LayerGraph>({
    draws: stream(1),
    identity: { seed: 1 },
    space: { ...graphSpace({ constraints: { noBatchStatistics: true } }), hash: canonicalHash },
    anchors: ["size"],
    stages: ["count"],
    evaluate: ({ genotype }) => ({
      scores: [active(genotype).length],
      stages: [{ name: "count", seconds: 0 }],
    }),
    budget: { evaluations: 200 },
  });
  assert.ok(progress.best!.scores[0]! >= 10);
  assert.deepEqual(progress.evaluated, 200);
});
