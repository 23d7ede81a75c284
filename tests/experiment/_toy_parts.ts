/** An experiment whose trials are made of trials of the toy: how far each growth has come at its end. */
import type { Experiment, Trial } from "../../lib/experiment/mod.ts";
import { toy } from "./_toy.ts";

/** Two trials of four parts each, three of which they share. */
export const ends: Experiment = {
  ...toy,
  id: "toy/ends",
  module: import.meta.url,
  parts: toy,
  trials: () => [1, 2].map((first): Trial => ({ name: `from${first}`, params: { first }, seed: 1 })),
  async run({ params }, { report, note, runPart }) {
    const growths = [0, 1, 2, 3].map((k) => 3.6 + (Number(params["first"]) + k) / 100);
    const parts = await Promise.all(
      growths.map((growth) => runPart({ name: `growth${growth}`, params: { growth }, seed: 1 })),
    );
    parts.forEach(({ rows }, step) => report({ step, metric: "x", value: rows.at(-1)!.value }));
    note("found", parts.filter(({ found }) => found).length);
  },
  tables: () => ({}),
  figures: () => [],
  claims: () => [],
};
