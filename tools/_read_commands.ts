/** The commands that only read the store, and make something of it. */
import { duration, loadAllResults } from "../lib/experiment/mod.ts";
import { tableText } from "../lib/figures/mod.ts";
import { buildSite, rerunCommand, viewResults } from "../lib/report/mod.ts";
import { claimsText } from "./_claims_text.ts";
import { checkedScale, type Command, findExperiment, parse, print, RESULTS } from "./_cli.ts";

export const listCommand: Command = {
  name: "list",
  usage: "[--results DIR]",
  summary: "List experiments, their scales and cost, and what is stored",
  help: "  --results DIR   where results are (default results)",
  run(args, { experiments }) {
    const { values } = parse(args, RESULTS, []);
    for (const experiment of experiments) {
      print(`${experiment.id}  ${experiment.title} (${experiment.source})`);
      const { results } = loadAllResults(experiment, values.results);
      for (const scale of experiment.scales) {
        const stored = results.filter((one) => one.scale === scale).map((one) =>
          `${one.trials.length}/${one.trials.length + one.missing.length} trials on ${one.backend}`
        );
        print(`  ${scale.padEnd(7)} ${experiment.cost[scale]}; ${stored.join(", ") || "nothing stored"}`);
      }
      for (const [name, option] of Object.entries(experiment.options ?? {})) {
        print(`  --option ${name}=${option.default}  ${option.description}`);
      }
    }
    return Promise.resolve(0);
  },
};

export const showCommand: Command = {
  name: "show",
  usage: "EXPERIMENT [--scale S] [--results DIR]",
  summary: "Show stored tables and claims",
  help: `  --scale smoke|laptop|paper   only this scale
  --results DIR                where results are (default results)`,
  run(args, { experiments }) {
    const { values, positionals } = parse(args, { scale: { type: "string" }, ...RESULTS }, ["experiment"]);
    const experiment = findExperiment(experiments, positionals[0]);
    const scale = values.scale === undefined ? undefined : checkedScale(values.scale);
    const { results, warnings } = loadAllResults(experiment, values.results);
    const views = results
      .filter((one) => scale === undefined || one.scale === scale)
      .map((one) => viewResults(experiment, one, one.scale));
    if (views.length === 0) {
      print(
        `Nothing is stored of ${experiment.id}${
          scale === undefined ? "" : ` at scale ${scale}`
        } in ${values.results}`,
      );
    }
    for (const view of views) {
      const seconds = view.results.trials.reduce((sum, { provenance }) => sum + provenance.seconds, 0);
      print(`== ${view.label}: ${view.results.trials.length} trials, ${duration(seconds)} of computing`);
      for (const [name, table] of Object.entries(view.tables)) print("", name, tableText(table, 50));
      print("", claimsText([view]), "", ...view.gaps, `Again: ${rerunCommand(experiment, view.results)}`, "");
    }
    warnings.forEach((warning) => print(`warning: ${warning}`));
    return Promise.resolve(0);
  },
};

export const reportCommand: Command = {
  name: "report",
  usage: "[--out DIR] [--results DIR]",
  summary: "Build the static site from all stored results",
  help: `  --out DIR       where the site goes; a former site there is replaced (default site)
  --results DIR   where results are (default results)`,
  async run(args, { experiments }) {
    const { values } = parse(args, { out: { type: "string", default: "site" }, ...RESULTS }, []);
    const site = await buildSite({ experiments, resultsDir: values.results, outDir: values.out });
    print(claimsText(site.views), "", ...site.warnings.map((warning) => `warning: ${warning}`));
    print(`The report: ${site.index} (${(site.bytes / 2 ** 20).toFixed(1)} MiB)`);
    return 0;
  },
};
