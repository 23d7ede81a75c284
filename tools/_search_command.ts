import type { Command } from "./_cli.ts";

export const searchCommand: Command = {
  name: "search",
  usage: "--budget N [options]",
  summary:
    "Search for layers; the same seed gives the same history, whatever the workers and however often stopped",
  help: `  --budget N      evaluate N candidates: those that use their input and are no duplicates
  --seed S        the root of every random draw (default 0)
  --workers W     W processes (default: one per core)
  --constraint none|no-batch
                  which layers; no-batch: without batch statistics, the paper's S series (default none)
  --method evolution|random
                  random: fresh layers only, rejected by the same tests (default evolution)
  --criterion pareto|average|ANCHOR
                  what makes a candidate win a tournament (default pareto)
  --scale smoke|laptop|paper
                  what candidates are trained on and for how long (default laptop: seconds each)
  --data SOURCE   images: cifar10-mini (shipped), cifar10 (downloaded), or a folder (default: the scale's own)
  --backend auto|wasm|tensorflow|webgpu
                  what computes (default auto: tensorflow if set up for a GPU, else wasm)
  --look-ahead L  candidates under way at once at most: more than this many workers stay idle. It is part of what decides
                  the history (default: the scale's own)
  --seconds T     the most that one candidate may take, in seconds; it is then rejected (default: the scale's own)
  --memory M      the same for its memory, in MiB
  --out DIR       where all of it goes (default search)

In DIR: history.arrow, a row per candidate, the same bytes from every run of the same search; layers.json, the best
layers with formulas; journal/ and evonorm/, what a stopped search goes on from. A search that was stopped or killed
goes on where it was when the same command is given again; a larger budget goes on further. Limits of time and memory
depend on the machine: a search in which one was met may go another way elsewhere.`,
  async run(args, context) {
    // Loaded when it is needed: it brings the tensor library with it.
    const { runSearch } = await import("./_search.ts");
    return await runSearch(args, context);
  },
};
