/**
 * A search of 100,000 candidates with a simulated evaluation, and going on from its journal: time per candidate, peak
 * memory, time to resume. `deno run -A bench/long_search.ts [CANDIDATES]`: about a minute.
 *
 * Everything but the evaluation is what a real search does: drawing layer graphs, screening, functional hashes,
 * selection, and the journal as Arrow files.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArrowJournal } from "../experiments/evonorm/_search_journal.ts";
import { type Candidate, type Evaluation, graphSpace, search } from "../lib/evolution/mod.ts";
import { active, type LayerGraph } from "../lib/graph/mod.ts";
import { stream } from "../lib/tensor/mod.ts";

const names = {
  anchors: ["resnet", "mobilenet", "efficientnet"],
  stages: ["quality", "stability", "training"],
};

/** Half of the candidates fail the quality test; the scores of the others come from their hash and their size. */
function simulate({ hash, genotype }: Candidate<LayerGraph>): Evaluation {
  const share = (place: number) => parseInt(hash!.slice(4 * place, 4 * place + 4), 16) / 2 ** 16;
  const quality = { name: "quality", work: 100, value: share(0), seconds: 0.5 };
  if (share(0) < 0.5) return { rejectedBy: "quality", stages: [quality] };
  const stability = { name: "stability", work: 100, value: 1000, seconds: 0.2 };
  const size = active(genotype).length / 14;
  return {
    scores: [size * share(1), size * share(2), size * share(3)],
    stages: [quality, stability, { name: "training", work: 3000, seconds: 20 }],
  };
}

/** One call of the search in this process. */
async function run(folder: string, candidates: number) {
  const began = performance.now();
  let ready = NaN;
  const { progress } = await search({
    draws: stream(1),
    identity: { seed: 1 },
    space: graphSpace(),
    ...names,
    evaluate: simulate,
    budget: { candidates },
    journal: new ArrowJournal(folder, names),
    // The first report comes once the journal is read.
    onProgress: () => ready = Number.isNaN(ready) ? performance.now() : ready,
  });
  const seconds = (performance.now() - began) / 1000;
  const { evaluated, accepted, duplicates, rejected } = progress;
  return {
    seconds,
    resumeSeconds: (ready - began) / 1000,
    peakMiB: peakMemory(),
    evaluated,
    accepted,
    duplicates,
    rejected,
  };
}

/** The most memory that this process has had, in MiB; its memory now where the system does not say. */
function peakMemory(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024;
  } catch {
    return Deno.memoryUsage().rss / 2 ** 20;
  }
}

/** The same in a process of its own, so that the memory is that of one call. */
async function apart(folder: string, candidates: number): Promise<Awaited<ReturnType<typeof run>>> {
  const args = ["run", "-A", import.meta.filename!, `${candidates}`, folder];
  const { stdout, success } = await new Deno.Command(Deno.execPath(), { args, stderr: "inherit" }).output();
  if (!success) throw new Error("the search failed");
  return JSON.parse(new TextDecoder().decode(stdout));
}

if (import.meta.main) {
  const [count = "100000", folder] = Deno.args;
  const candidates = Number(count);
  if (folder !== undefined) {
    console.log(JSON.stringify(await run(folder, candidates)));
    Deno.exit();
  }
  const made = mkdtempSync(join(tmpdir(), "long-search-"));
  try {
    const whole = await apart(made, candidates);
    const resumed = await apart(made, candidates + 10);
    const { evaluated, accepted, duplicates, rejected } = whole;
    console.log(`${candidates} candidates`, { evaluated, accepted, duplicates, rejected });
    console.log(
      `whole search: ${(1e6 * whole.seconds / candidates).toFixed(0)} us per candidate, peak ${
        whole.peakMiB.toFixed(0)
      } MiB`,
    );
    console.log(
      `going on: ${resumed.resumeSeconds.toFixed(2)} s to read ${readdirSync(made).length} files, peak ${
        resumed.peakMiB.toFixed(0)
      } MiB`,
    );
  } finally {
    rmSync(made, { recursive: true });
  }
}
