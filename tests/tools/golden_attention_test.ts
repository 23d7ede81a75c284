import assert from "node:assert/strict";
import { attentionFolder, checkGolden } from "../../tools/golden/main.ts";
import { testGoldenGroups } from "./_golden_groups.ts";

/**
 * Tensors compared in the repository's folder, by implementation: output and log-sum-exp of 15 cases and their 50 masks, ratio, residual
 * and epilogue of each mask, and for those that are not kernels the keys of its rows.
 */
const counts = { kernel: 2 * 65 + 3 * 50, tiles: 2 * 65 + 4 * 50, reference: 2 * 65 + 4 * 50 };

await testGoldenGroups(["attention"], (_group, backend, compared, { evaluation }) => {
  const kernel = backend === "tensorflow" ? 0 : counts.kernel;
  assert.equal(compared, evaluation === "compiled" ? kernel + counts.tiles : counts.reference);
});

Deno.test("reference values: mask statistics, a file and not a folder, once and without a backend", async () => {
  const reports = await checkGolden({ folders: [attentionFolder], only: ["mask_stats"] });
  assert.deepEqual(reports.map(({ backend }) => backend), [null]);
  assert.ok(reports[0]!.comparisons.length > 100);
  assert.deepEqual(reports[0]!.comparisons.filter(({ passed }) => !passed), []);
  await assert.rejects(checkGolden({ folders: [attentionFolder], only: ["layers"] }), /must hold layers:/);
});
