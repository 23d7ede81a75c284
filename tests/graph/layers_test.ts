import assert from "node:assert/strict";
import {
  batchMoments,
  evaluateExtended,
  evaluateLayer,
  formula,
  initialNodes,
  layerDerivative,
  type PublishedLayer,
  publishedLayer,
  statisticValues,
} from "../../lib/graph/mod.ts";
import { assertClose, type GoldenLayers, readJson, readTensors } from "./_golden.ts";

const { cases, layers } = readJson<GoldenLayers>("layers/index.json");

/** The reference's closed forms are named B0, S0, ... where the graphs are EvoNorm-B0, EvoNorm-S0, ... */
const nameOf = (layer: string) => /^[BS]\d$/.test(layer) ? `EvoNorm-${layer}` : layer;

/** Moving statistics of a layer by node: the running mean for means, the running variance for deviations. */
function buffersOf({ graph }: PublishedLayer, mean: Float64Array, variance: Float64Array) {
  return new Map(
    batchMoments(graph).map((index) => {
      const { op } = graph.nodes[index - initialNodes.length]!;
      return [index, op === "mean" ? mean : variance];
    }),
  );
}

for (const [name, { shape_nhwc: shape, groups, file }] of Object.entries(cases)) {
  const tensors = readTensors(`layers/${file}`);
  const tensor = (key: string) => tensors.get(key)!;
  const [x, dy] = [tensor("x"), tensor("dy")];
  const vectors = {
    v0: new Float64Array(shape[3]),
    v1: tensor("v1"),
    gamma: tensor("gamma"),
    beta: tensor("beta"),
    tau: tensor("tau"),
  };

  for (const key of layers) {
    Deno.test(`closed form of ${key}, case ${name}: outputs, statistics, gradients`, () => {
      const layer = publishedLayer(nameOf(key));
      const buffers = buffersOf(layer, tensor("running_mean"), tensor("running_var"));
      const check = (what: string, values: Float64Array) =>
        assertClose(values, tensor(`${key}/${what}`), `${key} ${name} ${what}`);

      const training = evaluateLayer(layer, { x, ...vectors, shape, groups, buffers });
      check("y_train", training.y);
      check("y_eval", evaluateLayer(layer, { x, ...vectors, shape, groups, buffers, mode: "inference" }).y);
      for (const [index, values] of training.buffers) {
        const { op } = layer.graph.nodes[index - initialNodes.length]!;
        check(op === "mean" ? "new_running_mean" : "new_running_var", values);
      }

      const gradient = evaluateExtended(layerDerivative(layer), { x, dy, ...vectors }, { shape, groups });
      check("dx", gradient.x);
      check("dgamma", gradient.gamma);
      check("dbeta", gradient.beta);
      if (tensors.has(`${key}/dv`)) checkAbsolutely(gradient.v1, tensor(`${key}/dv`), `${key} ${name} dv`);
      if (tensors.has(`${key}/dtau`)) check("dtau", gradient.tau);

      const statistics = statisticValues(layer.graph, buffers);
      const frozen = evaluateExtended(
        layerDerivative(layer, "inference"),
        { x, dy, ...vectors, ...statistics },
        { shape, groups },
      );
      check("dx_eval", frozen.x);
    });
  }
}

/** S0's dv is next to zero at scale_1e4, as its sigmoid is saturated: relative to nothing it means nothing. */
function checkAbsolutely(values: Float64Array, reference: Float64Array, what: string): void {
  const worst = values.reduce((most, value, c) => Math.max(most, Math.abs(value - reference[c]!)), 0);
  const scale = reference.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  assert.ok(worst <= 1e-7 * scale, `${what}: worst error ${worst}`);
}

Deno.test("timm's variants are the same graphs with another epsilon", () => {
  for (const which of ["S0", "S1", "S2"]) {
    const variant = publishedLayer(`EvoNorm-${which}a`);
    assert.equal(formula(variant.graph), formula(publishedLayer(`EvoNorm-${which}`).graph));
    const input = { x: [3, 3, 3, 3], shape: [1, 2, 2, 1] as const };
    const own = evaluateLayer(variant, input), other = evaluateLayer(variant, { ...input, epsilon: 1e-3 });
    assert.deepEqual(own.y, other.y);
    assert.notDeepEqual(own.y, evaluateLayer(variant, { ...input, epsilon: 1e-5 }).y);
  }
});

Deno.test("a post graph over the batch has no inference form", () => {
  const layer = {
    graph: publishedLayer("LN").graph,
    post: { nodes: [{ op: "mean", inputs: [0], axes: "bwh" }] },
  } as const;
  assert.throws(
    () => layerDerivative(layer, "inference"),
    /^TypeError: .*'post' must have no moment over \(b,w,h\)/,
  );
});
