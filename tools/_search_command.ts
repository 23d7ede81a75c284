import type { Command } from "./_cli.ts";

export const searchCommand: Command = {
  name: "search",
  usage: "--budget N | --minutes M | --work W [options]",
  summary:
    "Search for layers; the same seed gives the same history, whatever the workers and however often stopped",
  help: `How long (one at least; what is used up first ends the search):
  --budget N      evaluate N candidates: those that use their input and are no duplicates
  --minutes M     until M minutes have passed since this command began to search. Only the length of the history depends
                  on the clock: it begins with the same candidates as every longer one
  --work W        W billion multiplications in the anchors' convolutions, rejected candidates included: a cost that does
                  not depend on the machine

What is searched:
  --seed S        the root of every random draw (default 0)
  --constraint none|no-batch
                  which layers; no-batch: without batch statistics, the paper's S series (default none)
  --method evolution|random
                  random: fresh layers only, rejected by the same tests (default evolution)
  --criterion pareto|average|ANCHOR
                  what makes a candidate win a tournament (default pareto)
  --scale smoke|laptop|paper
                  what candidates are trained on and for how long (default laptop: seconds each)
  --anchors A+B   the networks that candidates are trained in: resnet, mobilenet, efficientnet, in any number; the
                  stability test is made in the first (default: the scale's own)
  --data SOURCE   images: cifar10-mini (shipped), cifar10 (downloaded), or a folder (default: the scale's own)

Tests that reject candidates (default: the scale's own):
  --no-rejection  neither quality nor stability test: all that is new is trained to the end
  --quality N     steps of training until the quality test; 0 for none
  --threshold A   accuracy that it asks for in every anchor, from 0 to 1
  --stability N   steps of gradient ascent of the stability test; 0 for none

After the search:
  --rerank N      train the N best layers again, with more steps and other seeds, and order them by their mean accuracy on
                  held-out images (default 0)

How it is run:
  --workers W     W processes (default: one per core)
  --backend auto|wasm|tensorflow|webgpu
                  what computes (default auto: tensorflow if set up for a GPU, else wasm)
  --look-ahead L  candidates under way at once at most: more than this many workers stay idle. It is part of what decides
                  the history (default: the scale's own)
  --seconds T     the most that one candidate may take, in seconds; it is then rejected (default: the scale's own)
  --memory M      the same for its memory, in MiB
  --out DIR       where all of it goes (default search)

In DIR: history.arrow, a row per candidate, the same bytes from every run of the same search; layers.json, the best
layers with formulas, the published layers that they equal, and accuracies on held-out images; journal/ and evonorm/, what
a stopped search goes on from. A search that was stopped or killed goes on where it was when the same command is given
again; a larger budget goes on further. "normlab graph show DIR/layers.json#0" says everything of the first layer. Limits
of time and memory depend on the machine: a search in which one was met may go another way elsewhere.`,
  async run(args, context) {
    // Loaded when it is needed: it brings the tensor library with it.
    const { runSearch } = await import("./_search.ts");
    return await runSearch(args, context);
  },
};
