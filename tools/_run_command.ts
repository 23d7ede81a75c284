import { runExperiment } from "../lib/experiment/mod.ts";
import { viewResults, writeArtifacts } from "../lib/report/mod.ts";
import { claimsText, outcomeText } from "./_claims_text.ts";
import {
  checkedBackend,
  checkedScale,
  checkedSetting,
  type Command,
  findExperiment,
  keyValues,
  parse,
  print,
  RESULTS,
  terminalProgress,
  wholeNumber,
  WORKERS,
} from "./_cli.ts";

export const runCommand: Command = {
  name: "run",
  usage: "EXPERIMENT [options]",
  summary: "Run the trials that are not in the store yet; write figures and tables",
  help: `  --scale smoke|laptop|paper   how much of it (default smoke)
  --backend auto|wasm|tensorflow|webgpu
                               what computes (default auto: tensorflow if set up for a GPU, else wasm)
  --workers N                  N processes; 0 for none but this one (default: one per core)
  --option KEY=VALUE           an option of the experiment; may be given several times
  --fresh                      run what is stored again, and replace it
  --results DIR                where results are (default results)

A run that was stopped or killed goes on where it was when the same command is given again.`,
  async run(args, { experiments, signal }) {
    const { values, positionals } = parse(args, {
      scale: { type: "string", default: "smoke" },
      backend: { type: "string", default: "auto" },
      option: { type: "string", multiple: true, default: [] },
      fresh: { type: "boolean", default: false },
      ...WORKERS,
      ...RESULTS,
    }, ["experiment"]);
    const experiment = findExperiment(experiments, positionals[0]);
    const scale = checkedScale(values.scale);
    const options = keyValues(values.option);
    checkedSetting(experiment, scale, options);
    const workers = wholeNumber("workers", values.workers, 0);
    using progress = terminalProgress();
    const outcome = await runExperiment({
      experiment,
      scale,
      backend: checkedBackend(values.backend),
      options,
      fresh: values.fresh,
      resultsDir: values.results,
      signal,
      onProgress: progress.show,
      ...(workers === undefined ? {} : { workers }),
    });
    const { files, gaps } = await writeArtifacts(experiment, outcome.results, values.results);
    print(outcomeText(outcome), "", claimsText([viewResults(experiment, outcome.results, outcome.scale)]));
    print("", ...gaps, "Written:", ...files.map((file) => `  ${file}`));
    return outcome.failed.length > 0 ? 1 : 0;
  },
};
