import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
  active,
  type Aggregation,
  arity,
  bufferStart,
  evaluateExtended,
  formula,
  indexSets,
  isAggregation,
  layerDerivative,
  layerForward,
  type LayerGraph,
  primitives,
  published,
  type PublishedLayer,
  usesX,
  validate,
} from "../../lib/graph/mod.ts";
import { derivedLayer } from "../../lib/layers/_derived.ts";
import { blocksOf } from "../../lib/layers/_derived_execute.ts";
import { interpretLayer } from "../../lib/layers/_interpreted.ts";
import type { LayerOptions } from "../../lib/layers/_layer_inputs.ts";
import { type VectorName, vectorNames } from "../../lib/compile/mod.ts";
import { availableBackends, readSafetensors, stream, useBackend } from "../../lib/tensor/mod.ts";
import { compare, type Comparison } from "../../tools/golden/report.ts";

const missing = (await availableBackends()).get("tensorflow") ?? null;
if (missing !== null) console.log(`skipping the tests of derived layers: ${missing}`);

function test(name: string, fn: () => void): void {
  Deno.test({
    name: `derived layers: ${name}`,
    ignore: missing !== null,
    async fn() {
      await useBackend("tensorflow");
      tf.tidy(fn);
    },
  });
}

type Layer = Pick<PublishedLayer, "graph" | "post">;
type Shape = [number, number, number, number];
type Evaluate = typeof derivedLayer;
interface Given {
  readonly shape: Shape;
  readonly x: Float32Array;
  readonly dy: Float32Array;
  readonly vectors: Readonly<Partial<Record<VectorName, Float32Array>>>;
}
type Result = Record<string, Float32Array>;

const first = 4;
const reads = ({ graph, post }: Layer, name: VectorName): boolean => {
  if (name === "gamma" || name === "beta") return true;
  const within = name === "tau" ? post : graph;
  return within !== undefined && active(within).includes(name === "v1" ? 3 : 2);
};

/** y and the gradients of sum(y * dy), by name; in training `moment<node>` too. */
function evaluate(
  by: Evaluate,
  layer: Layer,
  { shape, x, dy, vectors }: Given,
  options: LayerOptions,
): Result {
  const names = vectorNames.filter((name) => reads(layer, name));
  const moments: Result = {};
  let y!: Float32Array;
  const gradients = tf.grads((image: tf.Tensor, ...rest: tf.Tensor[]) => {
    const given = Object.fromEntries(names.map((name, k) => [name, rest[k] as tf.Tensor1D]));
    const output = by(layer, { x: image as tf.Tensor4D, vectors: given }, {
      ...options,
      ...(!options.movingMoments && {
        onBatchMoment: (node: number, moment: tf.Tensor1D) =>
          moments[`moment${node}`] = moment.dataSync<"float32">(),
      }),
    });
    y = output.dataSync<"float32">();
    return output;
  });
  const [dx, ...rest] = gradients(
    [tf.tensor4d(x, shape), ...names.map((name) => tf.tensor1d(vectors[name]!))],
    tf.tensor4d(dy, shape),
  );
  const read = (tensor: tf.Tensor) => tensor.dataSync<"float32">();
  return {
    y,
    dx: read(dx!),
    ...Object.fromEntries(names.map((name, k) => [`d${name}`, read(rest[k]!)])),
    ...moments,
  };
}

const folder = new URL("../golden/evonorm/", import.meta.url);
const json = (path: string) => JSON.parse(readFileSync(new URL(path, folder), "utf8"));
const tensorsOf = (path: string) => readSafetensors(readFileSync(new URL(path, folder)));
const misses = (comparisons: Comparison[]) => comparisons.filter(({ passed }) => !passed);

// The tolerances are those of `deno task golden`: multiples of what plain float32 PyTorch is off, with a floor for what it rounds exactly.
test("the published layers equal the reference values in training and inference", () => {
  const index: {
    layers: string[];
    cases: Record<string, { shape_nhwc: Shape; groups: number; file: string }>;
    eps: number;
    momentum: number;
    float32_error: Record<string, Record<string, Record<string, { max_abs_over_scale: number }>>>;
  } = json("layers/index.json");
  const comparisons: Comparison[] = [];
  for (const [caseName, { shape_nhwc: shape, groups, file }] of Object.entries(index.cases)) {
    const tensors = tensorsOf(`layers/${file}`);
    const data = (name: string) => tensors.get(name)?.data as Float32Array | undefined;
    const given: Given = {
      shape,
      x: data("x")!,
      dy: data("dy")!,
      vectors: { v1: data("v1")!, gamma: data("gamma")!, beta: data("beta")!, tau: data("tau")! },
    };
    for (const name of index.layers) {
      const layer = published[/^[BS]\d$/.test(name) ? `EvoNorm-${name}` : name]!;
      const nodes = layer.graph.nodes.flatMap(({ op, axes }, k) =>
        axes === "bwh" ? [{ op, node: first + k }] : []
      );
      const running = new Map(
        nodes.map(({ op, node }) =>
          [node, tf.tensor1d(data(op === "mean" ? "running_mean" : "running_var")!)] as const
        ),
      );
      const options = { groups, epsilon: index.eps };
      const training = evaluate(derivedLayer, layer, given, options);
      const inference = evaluate(derivedLayer, layer, given, { ...options, movingMoments: running });
      const measured: Record<string, Float32Array | undefined> = {
        y_train: training.y,
        dx: training.dx,
        dgamma: training.dgamma,
        dbeta: training.dbeta,
        dv: training.dv1,
        dtau: training.dtau,
        y_eval: inference.y,
        dx_eval: inference.dx,
      };
      for (const { op, node } of nodes) {
        const kind = op === "mean" ? "mean" : "var";
        const old = data(`running_${kind}`)!;
        measured[`new_running_${kind}`] = training[`moment${node}`]!.map((moment, c) =>
          index.momentum * old[c]! + (1 - index.momentum) * moment
        );
      }
      for (const [kind, values] of Object.entries(measured)) {
        const expected = data(`${name}/${kind}`);
        if (values === undefined || expected === undefined) continue;
        const max = (of: Float32Array) => of.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        // A vector's gradient may be the small difference of large terms: its own size says nothing of the arithmetic.
        const scale = Math.max(max(expected), expected.length < given.dy.length ? 1e-3 * max(given.dy) : 0) ||
          1;
        const float32 = index.float32_error[caseName]?.[name]?.[kind]?.max_abs_over_scale ?? 0;
        comparisons.push(
          compare(
            `${caseName}/${name}/${kind}`,
            values,
            expected,
            [expected.length],
            8 * float32 + 2e-6,
            scale,
          ),
        );
      }
    }
  }
  assert.ok(comparisons.length > 600, `${comparisons.length} tensors compared`);
  assert.deepEqual(misses(comparisons), []);
});

test("the reference graphs: values, gradients, inference after one step, and finite flags where nothing else can be compared", () => {
  const reference = json("graphs/graphs.json");
  const tensors = tensorsOf("graphs/tensors.safetensors");
  const shape: Shape = reference.shape_nhwc;
  const comparisons: Comparison[] = [];
  for (const set of ["generic", "init"]) {
    const data = (name: string) => tensors.get(`${set}/${name}`)!.data as Float32Array;
    const vectors = Object.fromEntries(["v0", "v1", "gamma", "beta"].map((name) => [name, data(name)]));
    for (const golden of reference.graphs) {
      const graph: LayerGraph = { nodes: golden.nodes };
      const facts = golden[set];
      const options = { groups: reference.groups, epsilon: reference.eps };
      const given = { shape, x: data("x"), dy: data("dy"), vectors };
      const training = tf.tidy(() => evaluate(derivedLayer, { graph }, given, options));
      if (!facts.well_conditioned) {
        const finite = training.y!.every(Number.isFinite);
        const expected = facts.finite_forward && facts.max_abs_y <= 3.4028234663852886e38;
        comparisons.push(compare(`${set}/${golden.id}/finite`, [Number(finite)], [Number(expected)], [1], 0));
        continue;
      }
      const movingMoments = new Map(
        Object.entries(training).filter(([name]) => name.startsWith("moment")).map(([name, moment]) => {
          const node = Number(name.slice("moment".length));
          const start = bufferStart(graph.nodes[node - first]!.op as Aggregation);
          return [node, tf.tensor1d(moment.map((value) => 0.9 * start + 0.1 * value))] as const;
        }),
      );
      const tensors = Object.fromEntries(
        Object.entries(vectors).map(([name, values]) => [name, tf.tensor1d(values)]),
      );
      const inference = derivedLayer({ graph }, { x: tf.tensor4d(data("x"), shape), vectors: tensors }, {
        ...options,
        movingMoments,
      });
      for (const [kind, values] of Object.entries({ ...training, y_eval: inference.dataSync<"float32">() })) {
        if (kind.startsWith("moment")) continue;
        const expected = data(kind).subarray(golden.id * values.length, (golden.id + 1) * values.length);
        const float32 = kind.startsWith("d") ? facts.float32_error_grad : facts.float32_error_y;
        comparisons.push(
          compare(`${set}/${golden.id}/${kind}`, values, expected, [values.length], 32 * float32 + 1e-5),
        );
      }
    }
  }
  assert.ok(comparisons.length > 2000, `${comparisons.length} tensors compared`);
  assert.deepEqual(misses(comparisons), []);
});

const noise = (seed: number, size: number) => stream(seed).normal(size) as Float32Array;
const given = (shape: Shape): Given => {
  const channels = shape[3];
  const around = (centre: number, seed: number) => noise(seed, channels).map((value) => centre + 0.2 * value);
  const size = shape.reduce((product, axis) => product * axis);
  return {
    shape,
    x: noise(1, size).map((value) => 0.3 + value),
    dy: noise(2, size),
    vectors: {
      v0: around(0, 3),
      v1: around(1, 4),
      gamma: around(1, 5),
      beta: around(0, 6),
      tau: around(0, 7),
    },
  };
};

// Both sides are float32 and sum in other orders over up to 25,000 pixels; a comparison a > b may fall to the other side for a pixel,
// which moves a whole gradient value: hence the distance in the mean instead of the largest one.
const meanDistance = (a: Float32Array, b: Float32Array) => {
  let distance = 0, size = 0;
  for (let i = 0; i < a.length; i++) {
    [distance, size] = [distance + Math.abs(a[i]! - b[i]!), size + Math.abs(b[i]!)];
  }
  return distance / (size || 1);
};

for (
  const [shape, groups, count, chunks] of [
    [[5, 7, 3, 6], 3, 1, 1],
    [[1, 3, 1, 8], 2, 1, 1],
    [[12, 32, 32, 16], 16, 3, 1],
    [[3, 64, 64, 32], 4, 6, 2],
    [[2, 26, 26, 128], 8, 4, 2],
    [[2, 113, 1, 1024], 8, 2, 1],
  ] as [Shape, number, number, number][]
) {
  test(`every published layer equals the interpreter at [${shape}], ${count} blocks`, () => {
    const sizes = {
      samples: shape[0],
      pixels: shape[1] * shape[2],
      channels: shape[3],
      groups,
      epsilon: 1e-5,
    };
    assert.deepEqual(blocksOf(sizes), { count, chunks });
    for (const layer of Object.values(published)) {
      tf.tidy(() => {
        const options = { groups, epsilon: layer.epsilon ?? 1e-5 };
        const derived = evaluate(derivedLayer, layer, given(shape), options);
        const interpreted = evaluate(interpretLayer, layer, given(shape), options);
        assert.deepEqual(Object.keys(derived), Object.keys(interpreted));
        for (const [kind, values] of Object.entries(derived)) {
          const distance = meanDistance(values, interpreted[kind]!);
          // A vector's gradient is a sum in which terms of both signs cancel: one comparison of a ReLU that falls to the other side
          // moves it by 1 of about 50 per channel.
          assert.ok(
            distance < (values.length === shape[3] ? 2e-3 : 2e-5),
            `${layer.name} ${kind} at [${shape}]: ${distance}`,
          );
        }
      });
    }
  });
}

/** A graph of 10 nodes drawn evenly over operations, index sets and inputs. */
function randomGraph(seed: number): LayerGraph {
  const draw = stream(seed).child("graph").uniform(40);
  let next = 0;
  const pick = (count: number) => Math.min(count - 1, Math.floor(draw[next++]! * count));
  const nodes = Array.from({ length: 10 }, (_, k) => {
    const op = primitives[pick(primitives.length)]!, axes = indexSets[pick(indexSets.length)]!;
    const inputs = Array.from({ length: arity(op) }, () => pick(first + k));
    return isAggregation(op) ? { op, inputs, axes } : { op, inputs };
  });
  return validate({ nodes });
}

const farthest = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let distance = 0, size = 0;
  for (let i = 0; i < a.length; i++) {
    distance = Math.max(distance, Math.abs(a[i]! - b[i]!));
    size = Math.max(size, Math.abs(b[i]!));
  }
  return distance / (size || 1);
};

for (const [shape, seeds] of [[[2, 3, 5, 6], 600], [[3, 32, 32, 48], 15]] as [Shape, number][]) {
  test(`random graphs at [${shape}] are as near to float64 as the interpreter is`, () => {
    const at = given(shape);
    const settings = { shape, groups: 3 };
    let compared = 0;
    for (let seed = 0; seed < seeds; seed++) {
      const graph = randomGraph(seed);
      if (!usesX(graph)) continue;
      const by = (evaluator: Evaluate) =>
        tf.tidy(() => evaluate(evaluator, { graph }, at, { groups: 3, epsilon: 1e-5 }));
      const derived = by(derivedLayer), interpreted = by(interpretLayer);
      const finite = ({ y }: Result) => y!.every(Number.isFinite);
      assert.equal(finite(derived), finite(interpreted), formula(graph));
      if (!finite(interpreted)) continue;
      const inputs = { x: at.x, dy: at.dy, ...at.vectors } as Record<string, Float32Array>;
      const y = evaluateExtended(layerForward({ graph }), inputs, settings).y;
      const gradients = evaluateExtended(layerDerivative({ graph }), inputs, settings);
      const exact: Record<string, Float64Array> = { y };
      for (const [name, gradient] of Object.entries(gradients)) exact[`d${name}`] = gradient;
      for (const [kind, values] of Object.entries(derived)) {
        if (exact[kind] === undefined) continue;
        const error = farthest(values, exact[kind]), allowed = farthest(interpreted[kind]!, exact[kind]);
        // A gradient that overflows in float32 can be compared with nothing.
        if (Number.isFinite(allowed)) {
          compared++;
          // Other orders of rounding: as in the reference graphs, 32 times as far; one flipped comparison is 1e-4.
          assert.ok(error <= 32 * allowed + 1e-4, `${kind} ${error} > ${allowed} in ${formula(graph)}`);
        }
      }
    }
    assert.ok(compared > seeds, `${compared} tensors compared`);
  });
}

test("a ReLU after the affine has gradient 0 at 0, a Max in the graph shares it", () => {
  const max: LayerGraph = { nodes: [{ op: "Max", inputs: [0, 1] }] };
  const double: LayerGraph = { nodes: [{ op: "Add", inputs: [0, 0] }] };
  const x = Float32Array.of(-1, 0, 2, 0), one = Float32Array.of(1), zero = Float32Array.of(0);
  const at: Given = {
    shape: [1, 2, 2, 1],
    x,
    dy: Float32Array.of(1, 1, 1, 1),
    vectors: { gamma: one, beta: zero },
  };
  const gradient = (layer: Layer) => [...evaluate(derivedLayer, layer, at, { groups: 1, epsilon: 1e-5 }).dx!];
  assert.deepEqual(gradient({ graph: double, post: max }), [0, 0, 2, 0]);
  assert.deepEqual(gradient({ graph: max }), [0, 0.5, 1, 0.5]);
});

test("the second derivative is the interpreter's", () => {
  const shape: Shape = [3, 4, 4, 8];
  const { x, dy, vectors } = given(shape);
  const norm = (by: Evaluate, layer: Layer) => {
    const names = vectorNames.filter((name) => reads(layer, name));
    const objective = (image: tf.Tensor, ...rest: tf.Tensor[]) => {
      const loss = (...inner: tf.Tensor[]) => {
        const parts = Object.fromEntries(names.map((name, k) => [name, inner[k + 1] as tf.Tensor1D]));
        const y = by(layer, { x: inner[0] as tf.Tensor4D, vectors: parts }, { groups: 4, epsilon: 1e-5 });
        return tf.sum(tf.mul(tf.square(y), tf.tensor4d(dy, shape)));
      };
      const squares = tf.grads(loss)([image, ...rest]).map((gradient) => tf.sum(tf.square(gradient)));
      return squares.reduce((sum, square) => tf.add(sum, square));
    };
    const inputs = [tf.tensor4d(x, shape), ...names.map((name) => tf.tensor1d(vectors[name]!))];
    return tf.grads(objective)(inputs).map((gradient) => gradient.dataSync<"float32">());
  };
  for (const name of ["EvoNorm-B0", "EvoNorm-S0", "EvoNorm-S2", "GN-SiLU", "FRN-TLU"]) {
    const [derived, interpreted] = [
      norm(derivedLayer, published[name]!),
      norm(interpretLayer, published[name]!),
    ];
    assert.equal(derived.length, interpreted.length);
    derived.forEach((values, k) => {
      // The forward values differ in their last bits, and the gradient's gradient amplifies them about tenfold.
      const distance = meanDistance(values, interpreted[k]!);
      assert.ok(distance < 1e-4 && interpreted[k]!.some((value) => value !== 0), `${name} ${k}: ${distance}`);
    });
  }
});

test("no tensor is left behind, in training, inference or when an operation is refused", () => {
  const shape: Shape = [4, 64, 64, 16];
  const at = given(shape);
  const movingMoments = new Map([[4, tf.ones<tf.Rank.R1>([16])]]);
  const { binding } = tf.backend() as unknown as { binding: { getNumOfTensors?(): number } };
  const step = () => {
    evaluate(derivedLayer, published["EvoNorm-B0"]!, at, { groups: 4, epsilon: 1e-5 });
    evaluate(derivedLayer, published["EvoNorm-B0"]!, at, { groups: 4, epsilon: 1e-5, movingMoments });
    evaluate(derivedLayer, published["GN-SiLU"]!, at, { groups: 4, epsilon: 1e-5 });
  };
  const counts = () => [tf.memory().numTensors, tf.memory().numDataBuffers, binding.getNumOfTensors?.()];
  tf.tidy(step);
  const before = counts();
  for (let k = 0; k < 20; k++) tf.tidy(step);
  assert.deepEqual(counts(), before);
});

test("inputs that do not fit are refused before any work", () => {
  const layer = published["EvoNorm-S0"]!;
  const x = tf.zeros<tf.Rank.R4>([1, 2, 2, 4]), v1 = tf.ones<tf.Rank.R1>([8]);
  assert.throws(() => derivedLayer(layer, { x, vectors: { v1 } }, { groups: 2, epsilon: 1e-5 }), {
    name: "TypeError",
    message: "Cannot evaluate a derived layer as 'v1' must be [c] = [4]: current shape is [8]",
  });
  assert.throws(() => derivedLayer(layer, { x, vectors: {} }, { groups: 3, epsilon: 1e-5 }), {
    name: "RangeError",
    message: "Cannot evaluate a derived layer as 'groups' must divide the 4 channels: current value is 3",
  });
  const flat = tf.zeros([2, 4]) as unknown as tf.Tensor4D;
  assert.throws(() => derivedLayer(layer, { x: flat, vectors: {} }, { groups: 2, epsilon: 1e-5 }), {
    name: "TypeError",
    message: "Cannot evaluate a derived layer as 'x' must be [n, h, w, c]: current shape is [2,4]",
  });
});

Deno.test("derived layers: another backend is refused", async () => {
  await useBackend("wasm");
  const x = tf.zeros<tf.Rank.R4>([1, 2, 2, 4]);
  assert.throws(
    () => derivedLayer(published["EvoNorm-S1"]!, { x, vectors: {} }, { groups: 2, epsilon: 1e-5 }),
    /the backend must be tensorflow: current backend is wasm/,
  );
});
