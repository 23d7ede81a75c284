/** A search whose candidates hang, fill the memory, or take their process down, in real processes: it goes on. */
import assert from "node:assert/strict";
import { searchOptions, SETTINGS, taskOf } from "../../experiments/evonorm/search.ts";
import { type CandidateRecord, MemoryJournal, search, wasEvaluated } from "../../lib/evolution/mod.ts";
import { sha256, type Trial, TrialsOnDemand } from "../../lib/experiment/mod.ts";
import { temporaryFolder } from "../experiment/_helpers.ts";
import { toy } from "../experiment/_toy.ts";

const LIMITS = { seconds: 2, mib: 500 };
const EVALUATIONS = 14;
const task = taskOf("smoke");
/** What the toy does wrong for a layer, and how the search has to name it. */
const FAULTS = { busy: "time limit", grow: "memory limit", die: "crash" } as const;

/** One in eight layers for each fault, by what it is. */
function faultOf(graph: string): keyof typeof FAULTS | "none" {
  return (["busy", "grow", "die"] as const)[parseInt(sha256(graph).slice(0, 1), 16) >> 1] ?? "none";
}

/** Searches real layer graphs, the toy's trials standing for trainings. */
async function run(resultsDir: string) {
  let ran = 0;
  using trials = new TrialsOnDemand({
    experiment: toy,
    scale: "smoke",
    backend: "toy",
    workers: 2,
    resultsDir,
    limits: LIMITS,
  });
  const journal = new MemoryJournal();
  const setting = {
    method: "evolution",
    constraint: "none",
    criterion: "pareto",
    ...SETTINGS.smoke.moves,
  } as const;
  const { progress } = await search({
    ...searchOptions({
      seed: 5,
      setting,
      task,
      backend: "toy",
      async run({ name, seed, params: { graph } }: Trial) {
        const fault = faultOf(String(graph));
        const growth = 3.6 + parseInt(sha256(String(graph)).slice(1, 5), 16) / 2 ** 18;
        const outcome = await trials.run({ name, seed, params: { growth, fault } });
        if (!outcome.found) ran++;
        if (outcome.limit !== null) return outcome;
        const score = outcome.rows.findLast(({ metric }) => metric === "x")!.value;
        const rows = ["training work", "accuracy resnet", "accuracy mobilenet"].map((metric) => {
          return { step: 0, metric, value: score };
        });
        return { ...outcome, rows, notes: { "training seconds": outcome.seconds } };
      },
    }),
    budget: { evaluations: EVALUATIONS },
    journal,
  });
  return { progress, records: journal.records, ran };
}

const plain = (records: readonly CandidateRecord[]) =>
  records.map(({ index, genotype, duplicateOf, rejectedBy, scores }) => ({
    index,
    genotype,
    duplicateOf,
    rejectedBy,
    scores,
  }));

Deno.test({
  name:
    "a search goes on when candidates hang, fill the memory or take their process down, and records them as such",
  ignore: Deno.build.os === "windows",
  async fn() {
    using folder = temporaryFolder();
    const { progress, records, ran } = await run(folder.path);
    const evaluated = records.filter(wasEvaluated);
    assert.equal(evaluated.length, EVALUATIONS);
    for (const { genotype, rejectedBy, stages, scores } of evaluated) {
      const fault = faultOf(genotype);
      assert.equal(rejectedBy, fault === "none" ? null : FAULTS[fault]);
      assert.equal(scores === null, fault !== "none");
      assert.equal(stages.at(-1)!.name, fault === "none" ? "training" : "limit");
      if (fault === "busy") assert.ok(stages.at(-1)!.seconds >= LIMITS.seconds);
    }
    for (const name of Object.values(FAULTS)) assert.ok(progress.rejected[name]! >= 1, name);
    assert.ok(progress.accepted >= 3);

    // What was ended at a limit is stored as such: a second search of the same evaluates only what crashed.
    const again = await run(folder.path);
    assert.deepEqual(plain(again.records), plain(records));
    assert.deepEqual([ran, again.ran], [EVALUATIONS - progress.rejected["crash"]!, 0]);
  },
});
