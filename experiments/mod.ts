/**
 * The experiments of the kit: one line here makes one known to the command line, the report and the tests.
 *
 * @module
 */
import type { Experiment } from "../lib/experiment/mod.ts";
import { fileURLToPath } from "node:url";
import { layers } from "./evonorm/layers.ts";
import { randomLayers } from "./evonorm/random_layers.ts";
import { rejection } from "./evonorm/rejection.ts";
import { searches } from "./evonorm/search.ts";

/** Every experiment, in the order in which they are listed. */
export const experiments: readonly Experiment[] = [layers, randomLayers, rejection, searches];

/** Where results are kept: `results/` beside `deno.json`, whatever folder a notebook or a command is started from. */
export const resultsFolder: string = fileURLToPath(new URL("../results", import.meta.url));

export { layers, randomLayers, rejection, searches };
