import assert from "node:assert/strict";
import {
  active,
  batchIndependent,
  derivative,
  evaluate,
  evaluateExtended,
  functionalHash,
  initialNodes,
  usesX,
  validate,
} from "../../lib/graph/mod.ts";
import {
  allFinite,
  assertClose,
  type GoldenGraph,
  goldenGraph,
  goldenGraphs,
  readTensors,
  tolerance,
} from "./_golden.ts";

const { shape_nhwc: shape, groups, graphs } = goldenGraphs;
const tensors = readTensors("graphs/tensors.safetensors");
const channels = shape[3];

/** The inputs of a set, and the outputs of one graph on it. */
function readSet(set: "generic" | "init", id: number) {
  const tensor = (name: string) => tensors.get(`${set}/${name}`)!;
  const output = (name: string) => {
    const all = tensor(name);
    const size = all.length / graphs.length;
    return all.subarray(id * size, (id + 1) * size);
  };
  return { tensor, output };
}

/** Everything that the reference has of one graph, computed: y, its inference form, and all gradients. */
function compute(golden: GoldenGraph, set: "generic" | "init") {
  const { tensor } = readSet(set, golden.id);
  const [x, v0, v1, gamma, beta, dy] = ["x", "v0", "v1", "gamma", "beta", "dy"].map(tensor) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const graph = goldenGraph(golden);
  const input = { x, v0, v1, shape, groups };
  const affine = (z: Float64Array) => z.map((value, i) => gamma[i % channels]! * value + beta[i % channels]!);
  const perChannel = (values: Float64Array) => {
    const sums = new Float64Array(channels);
    values.forEach((value, i) => sums[i % channels]! += value);
    return sums;
  };
  const { z, buffers } = evaluate(graph, input);
  const inference = evaluate(graph, { ...input, buffers, mode: "inference" });
  const dz = dy.map((value, i) => value * gamma[i % channels]!);
  const gradient = evaluateExtended(derivative(graph), { x, v0, v1, dz }, { shape, groups });
  return {
    buffers,
    y: affine(z),
    y_eval: affine(inference.z),
    dx: gradient.x,
    dv0: gradient.v0,
    dv1: gradient.v1,
    dgamma: perChannel(dy.map((value, i) => value * z[i]!)),
    dbeta: perChannel(dy),
  };
}

for (const set of ["generic", "init"] as const) {
  Deno.test(`reference graphs, set ${set}: outputs, inference form and gradients`, () => {
    const conditioned = graphs.filter((golden) => golden[set].well_conditioned);
    assert.ok(conditioned.length > 200);
    for (const golden of conditioned) {
      const { output } = readSet(set, golden.id);
      const { buffers: _, ...computed } = compute(golden, set);
      for (const [name, values] of Object.entries(computed)) {
        assertClose(values, output(name), `graph ${golden.id} ${set}/${name}`);
      }
    }
  });

  Deno.test(`reference graphs, set ${set}: which outputs and gradients are finite`, () => {
    for (const golden of graphs) {
      const { y, y_eval, dx, dv0, dv1, dgamma, dbeta } = compute(golden, set);
      const finite = {
        finite_forward: allFinite(y),
        finite_eval: allFinite(y_eval),
        finite_grad: allFinite(dx, dv0, dv1, dgamma, dbeta),
      };
      const { finite_forward, finite_eval, finite_grad } = golden[set];
      assert.deepEqual(finite, { finite_forward, finite_eval, finite_grad }, `graph ${golden.id}`);
    }
  });
}

Deno.test("reference graphs: moving statistics after one training step", () => {
  let compared = 0;
  for (const golden of graphs) {
    const { buffers } = compute(golden, "generic");
    const reference = golden.buffers_after_one_step;
    assert.deepEqual([...buffers.keys()].map(String), Object.keys(reference), `graph ${golden.id}`);
    if (!golden.generic.well_conditioned) continue;
    for (const [index, values] of Object.entries(reference)) {
      assertClose(
        buffers.get(Number(index))!,
        Float64Array.from(values),
        `graph ${golden.id} buffer ${index}`,
      );
      compared++;
    }
  }
  assert.ok(compared > 50);
});

Deno.test("reference graphs: active nodes, use of x, batch independence", () => {
  for (const golden of graphs) {
    const graph = goldenGraph(golden);
    const indices = active(graph);
    assert.deepEqual(
      {
        active: indices,
        n_active: indices.filter((index) => index >= initialNodes.length).length,
        contains_x: usesX(graph),
        batch_independent: batchIndependent(graph),
      },
      {
        active: golden.active,
        n_active: golden.n_active,
        contains_x: golden.contains_x,
        batch_independent: golden.batch_independent,
      },
    );
  }
});

Deno.test("a batch-independent graph leaves a sample alone when its neighbours change", () => {
  const { tensor } = readSet("generic", 0);
  const [x, v0, v1] = ["x", "v0", "v1"].map(tensor) as [Float64Array, Float64Array, Float64Array];
  const sample = x.length / shape[0];
  const neighbours = x.map((value, i) => i < sample ? value : 1.7 * value - 0.3);
  let moved = 0;
  for (const golden of graphs.filter((one) => one.generic.finite_forward)) {
    const graph = goldenGraph(golden);
    const [one, other] = [x, neighbours].map((input) =>
      evaluate(graph, { x: input, v0, v1, shape, groups }).z.subarray(0, sample)
    ) as [Float64Array, Float64Array];
    const same = one.every((value, i) => value === other[i]);
    if (golden.batch_independent) assert.ok(same, `graph ${golden.id}`);
    else if (!same) moved++;
  }
  assert.ok(moved > 30);
});

Deno.test("the functional hash has the reference's classes", () => {
  const hashes = graphs.map((golden) => functionalHash(goldenGraph(golden)));
  for (const [i, a] of graphs.entries()) {
    for (const [j, b] of graphs.entries()) {
      if (i === j || a.class === null || b.class === null) continue;
      assert.equal(hashes[i] === hashes[j], a.class === b.class, `graphs ${i} and ${j}`);
    }
  }
  for (const [first, ...others] of goldenGraphs.duplicates) {
    for (const other of others) assert.equal(hashes[other], hashes[first!]);
  }
});

Deno.test("graphs with non-finite outputs hash apart from all others", () => {
  const hashes = graphs.map((golden) => functionalHash(goldenGraph(golden)));
  const wild = graphs.filter((golden) => golden.class === null);
  assert.ok(wild.length > 0);
  for (const { id } of wild) {
    assert.equal(hashes.filter((hash) => hash === hashes[id]).length, 1, `graph ${id}`);
  }
});

Deno.test("the tolerance is tight: a slightly wrong derivative misses it", () => {
  const golden = graphs[0]!;
  const { output } = readSet("generic", 0);
  const { dx } = compute(golden, "generic");
  const nudged = dx.map((value) => value * (1 + 3 * tolerance));
  assert.throws(() => assertClose(nudged, output("dx"), "nudged"), /nudged: worst error/);
});

Deno.test("evaluate refuses inputs that do not fit", () => {
  const graph = validate({ nodes: [{ op: "std", inputs: [0], axes: "whc/g" }] });
  const x = new Float64Array(16);
  const good = { x, shape: [1, 2, 2, 4] as const, groups: 2 };
  assert.throws(
    () => evaluate(graph, { ...good, x: x.subarray(1) }),
    /^TypeError: .*'x' must have 16 .* has 15/,
  );
  assert.throws(() => evaluate(graph, { ...good, v0: [0] }), /^TypeError: .*'v0' must have 4 .* has 1/);
  assert.throws(() => evaluate(graph, { ...good, groups: 3 }), /^RangeError: .*'groups' must divide .* is 3/);
  assert.throws(
    () => evaluate(graph, { ...good, shape: [1, 2, 0, 4] }),
    /^RangeError: .*'shape' .* is \[1,2,0,4\]/,
  );
  assert.throws(() => evaluate(graph, { ...good, epsilon: 0 }), /^RangeError: .*'epsilon' .* is 0/);
  assert.throws(
    () => evaluateExtended(derivative(graph), { x, v0: [0, 0, 0, 0], v1: [1, 1, 1, 1] }, good),
    /^TypeError: .*'dz' must have 16 numbers .* is missing/,
  );
});
