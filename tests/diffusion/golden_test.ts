import assert from "node:assert/strict";
import { attentionFolder, checkGolden } from "../../tools/golden/main.ts";

/** Tensors compared in the repository's folder. */
const counts = {
  // Timesteps and latents of 15 runs, levels of 12, predicted originals of 8.
  schedulers: 2 * 15 + 12 + 8,
  // 6 figures of 18 pairs, 5 of a video.
  metrics: 6 * 18 + 5,
  // Shape and values of 15 tables, and the whole of those that are not of times.
  embeddings: 2 * 15 + 12,
};

for (const [group, count] of Object.entries(counts)) {
  Deno.test(`reference values: ${group}, once and without a backend`, async () => {
    const reports = await checkGolden({ folders: [attentionFolder], only: [group] });
    assert.deepEqual(reports.map(({ backend }) => backend), [null]);
    assert.equal(reports[0]!.comparisons.length, count);
    assert.deepEqual(reports[0]!.comparisons.filter(({ passed }) => !passed), []);
  });
}
