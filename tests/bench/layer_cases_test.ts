import assert from "node:assert/strict";
import { drawGraphs, publishedCases, randomCases, SHAPES } from "../../bench/_layer_cases.ts";
import { canonicalHash, usesX, validate } from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";

Deno.test("fresh random graphs are valid, distinct, use x, and are the same for the same seed", () => {
  const graphs = drawGraphs(200, stream(3));
  for (const graph of graphs) {
    validate(graph);
    assert.ok(usesX(graph));
  }
  assert.equal(new Set(graphs.map((graph) => canonicalHash(graph))).size, 200);
  assert.deepEqual(drawGraphs(200, stream(3)), graphs);
  // All of the search space is drawn from.
  assert.equal(new Set(graphs.flatMap(({ nodes }) => nodes.map(({ op }) => op))).size, 15);
  assert.equal(new Set(graphs.flatMap(({ nodes }) => nodes.map(({ axes }) => axes))).size, 5);
});

Deno.test("the layers of the benchmark: six published, twenty random, groups that divide every shape", async () => {
  const cases = [...publishedCases(), ...await randomCases()];
  assert.equal(cases.length, 26);
  assert.equal(new Set(cases.map(({ name }) => name)).size, 26);
  for (const { groups } of cases) for (const shape of SHAPES) assert.equal(shape[3] % groups, 0);
});
