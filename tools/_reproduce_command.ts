import { runExperiment } from "../lib/experiment/mod.ts";
import { buildSite, writeArtifacts } from "../lib/report/mod.ts";
import { claimsText, outcomeText } from "./_claims_text.ts";
import {
  checkedBackend,
  type Command,
  parse,
  print,
  RESULTS,
  terminalProgress,
  wholeNumber,
  WORKERS,
} from "./_cli.ts";

export const reproduceCommand: Command = {
  name: "reproduce",
  usage: "[options]",
  summary: "Run every experiment at smoke scale and build the report, published results included",
  help: `  --backend auto|wasm|tensorflow|webgpu
                  what computes (default wasm: nothing to install)
  --workers N     N processes (default: one per core)
  --results DIR   where results are (default results)
  --out DIR       where the site goes (default site)`,
  async run(args, { experiments, signal }) {
    const { values } = parse(args, {
      backend: { type: "string", default: "wasm" },
      out: { type: "string", default: "site" },
      ...WORKERS,
      ...RESULTS,
    }, []);
    const backend = checkedBackend(values.backend);
    const workers = wholeNumber("workers", values.workers, 0);
    let failures = 0;
    for (const experiment of experiments) {
      using progress = terminalProgress();
      const outcome = await runExperiment({
        experiment,
        scale: "smoke",
        backend,
        resultsDir: values.results,
        signal,
        onProgress: progress.show,
        ...(workers === undefined ? {} : { workers }),
      });
      failures += outcome.failed.length;
      await writeArtifacts(experiment, outcome.results, values.results);
      print(outcomeText(outcome));
    }
    const site = await buildSite({ experiments, resultsDir: values.results, outDir: values.out });
    print("", claimsText(site.views), "", ...site.warnings.map((warning) => `warning: ${warning}`));
    print(`The report: ${site.index}`, `Rows, figures and tables: ${values.results}/<experiment>/<scale>`);
    return failures > 0 ? 1 : 0;
  },
};
