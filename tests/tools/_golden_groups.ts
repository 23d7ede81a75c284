/** Tests that compare groups of reference values on every backend, compiled and interpreted. */
import assert from "node:assert/strict";
import { availableBackends, type BackendName } from "../../lib/tensor/mod.ts";
import { checkGolden } from "../../tools/golden/main.ts";
import type { Evaluation } from "../../tools/golden/report.ts";

/** A test per group, backend and evaluation: no comparison misses, and `count` finds as many of them as there must be. */
export async function testGoldenGroups<Group extends string>(
  groups: readonly Group[],
  count: (group: Group, backend: BackendName, compared: number, evaluation: Evaluation) => void,
): Promise<void> {
  for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
    for (const group of groups) {
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
            count(group, backend, report!.comparisons.length, { evaluation });
            assert.deepEqual(report!.comparisons.filter(({ passed }) => !passed), []);
          },
        });
      }
    }
  }
}
