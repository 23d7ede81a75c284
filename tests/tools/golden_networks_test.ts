import assert from "node:assert/strict";
import { availableBackends } from "../../lib/tensor/mod.ts";
import { checkGolden } from "../../tools/golden/main.ts";

/**
 * Values compared in the repository's folder. Of 30 ascents at two rates a software GPU follows five for some steps; elsewhere rounding
 * decides whether the ascent of one graph, which follows nothing else, is compared. Three networks with three layers and two modes,
 * with two kinds of weights except on a software GPU.
 */
const expected = {
  stability: { webgpu: [148, 148], others: [1995, 2104] },
  models: { webgpu: [316, 316], others: [646, 646] },
};

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  for (const group of ["stability", "models"] as const) {
    for (const evaluation of ["compiled", "interpreted"] as const) {
      Deno.test({
        name: `reference values: ${group} on ${backend}, ${evaluation}${
          reason === null ? "" : ` (skipped: ${reason})`
        }`,
        ignore: reason !== null,
        async fn() {
          const [report] = await checkGolden({
            backends: [backend],
            only: [group],
            evaluations: [{ evaluation }],
          });
          const [least, most] = expected[group][backend === "webgpu" ? "webgpu" : "others"];
          const { length } = report!.comparisons;
          assert.ok(length >= least! && length <= most!, `${length} values compared`);
          assert.deepEqual(report!.comparisons.filter(({ passed }) => !passed), []);
        },
      });
    }
  }
}
