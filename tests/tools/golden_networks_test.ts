import assert from "node:assert/strict";
import { testGoldenGroups } from "./_golden_groups.ts";

/**
 * Values compared in the repository's folder. Of 30 ascents at two rates a software GPU follows five for some steps; elsewhere rounding
 * decides whether the ascent of one graph, which follows nothing else, is compared. Three networks with three layers and two modes,
 * with two kinds of weights except on a software GPU.
 */
const expected = {
  stability: { webgpu: [148, 148], others: [1995, 2104] },
  models: { webgpu: [316, 316], others: [646, 646] },
};

await testGoldenGroups(["stability", "models"], (group, backend, compared) => {
  const [least, most] = expected[group][backend === "webgpu" ? "webgpu" : "others"];
  assert.ok(compared >= least! && compared <= most!, `${compared} values compared`);
});
