/** What experiments that are made of candidates of the search have in common. */
import type { Experiment } from "../../lib/experiment/mod.ts";
import { candidates, fetchImages, prepare } from "./_search_candidate.ts";
import { SETTINGS } from "./_search_settings.ts";

/** Scales, images and parts: the same candidate is trained once, whichever of the experiments asks for it. */
export const madeOfCandidates = {
  scales: ["smoke", "laptop", "paper"],
  options: {
    data: {
      description:
        "images: cifar10-mini (shipped), cifar10 (downloaded), or a folder; default: the scale's own",
      default: "",
    },
  },
  parts: candidates,
  fetch: (scale, options, onProgress) =>
    fetchImages(options["data"] || SETTINGS[scale].task.data, onProgress),
  prepare,
} satisfies Partial<Experiment>;
