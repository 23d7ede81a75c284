import { loadAllResults, verifyResults } from "../lib/experiment/mod.ts";
import {
  checkedScale,
  type Command,
  findExperiment,
  parse,
  print,
  RESULTS,
  terminalProgress,
  wholeNumber,
  WORKERS,
} from "./_cli.ts";

export const verifyCommand: Command = {
  name: "verify",
  usage: "[EXPERIMENT] [options]",
  summary: "Run a random sample of stored trials again and compare the rows bit for bit",
  help: `  --sample N                   trials per scale and backend (default 2)
  --seed N                     seed of the sample (default: the clock)
  --scale smoke|laptop|paper   only this scale
  --workers N                  N processes (default: one per core)
  --results DIR                where results are (default results)

Exit code 1 where a row differs, or nothing is stored. Rows are bit-identical on the same backend and machine;
another machine, or another commit, may round differently.`,
  async run(args, { experiments, signal }) {
    const { values, positionals } = parse(args, {
      sample: { type: "string", default: "2" },
      seed: { type: "string" },
      scale: { type: "string" },
      ...WORKERS,
      ...RESULTS,
    }, ["experiment"]);
    const chosen = positionals.length === 0 ? experiments : [findExperiment(experiments, positionals[0])];
    const scale = values.scale === undefined ? undefined : checkedScale(values.scale);
    const sample = wholeNumber("sample", values.sample, 1)!;
    const seed = wholeNumber("seed", values.seed, 0) ?? Date.now() % 2 ** 31;
    const workers = wholeNumber("workers", values.workers, 0);
    let [compared, differing] = [0, 0];
    for (const experiment of chosen) {
      for (const results of loadAllResults(experiment, values.results).results) {
        if (scale !== undefined && results.scale !== scale) continue;
        using progress = terminalProgress();
        const verified = await verifyResults({
          experiment,
          results,
          sample,
          seed,
          signal,
          onProgress: progress.show,
          ...(workers === undefined ? {} : { workers }),
        });
        for (const { stored, equal, difference } of verified) {
          compared++;
          if (!equal) differing++;
          print(
            equal
              ? `equal    ${stored.file}`
              : `DIFFERS  ${stored.file}: ${difference}; it was stored at commit ${
                stored.provenance.commit.slice(0, 10)
              }`,
          );
        }
      }
    }
    print(`${compared} trials run again, ${differing} differ (--seed ${seed})`);
    return differing > 0 || compared === 0 ? 1 : 0;
  },
};
