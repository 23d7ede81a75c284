/**
 * A search of digits with its journal in a folder, as a process that tests kill: FOLDER WORKERS CANDIDATES. Evaluations
 * take a few milliseconds, in an order that differs from run to run.
 */
import { search } from "../../lib/evolution/mod.ts";
import { ArrowJournal } from "../../experiments/evonorm/_search_journal.ts";
import { evaluateDigits, names } from "../evolution/_digits.ts";
import { digitsSearch } from "../evolution/_helpers.ts";

const [folder, workers, candidates] = Deno.args;
await search(digitsSearch({
  journal: new ArrowJournal(folder!, names),
  journalSeconds: 0.02,
  workers: Number(workers),
  budget: { candidates: Number(candidates) },
  async evaluate(candidate) {
    await new Promise((resolve) => setTimeout(resolve, (performance.now() * 1000) % 7));
    return evaluateDigits(candidate);
  },
}));
