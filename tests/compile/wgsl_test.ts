import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import {
  batchMoments,
  binaryPrimitives,
  evaluateExtended,
  formula,
  type GraphNode,
  layerDerivative,
  layerForward,
  type LayerGraph,
  type Mode,
  published,
  publishedLayer,
  unaryPrimitives,
} from "../../lib/graph/mod.ts";
import { layerPrograms, schedule, wgslKernel, type WgslOptions } from "../../lib/compile/mod.ts";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { availableBackends, stream, useBackend } from "../../lib/tensor/mod.ts";
import {
  type CaseShape,
  expected,
  type Layer,
  layerData,
  mistake,
  movingMoments,
  oddShapes,
  randomGraph,
} from "./_random_graphs.ts";
import { WebgpuRunner } from "./_webgpu_runner.ts";

const missing = (await availableBackends({ allowSoftware: true })).get("webgpu")!;

function onWebgpu(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name: `webgpu: ${name}${missing === null ? "" : ` (skipped: ${missing})`}`,
    ignore: missing !== null,
    // The device of TensorFlow.js lives as long as the process.
    sanitizeResources: false,
    sanitizeOps: false,
    fn,
  });
}

async function withRunner(use: (runner: WebgpuRunner) => Promise<void>): Promise<void> {
  const runner = await WebgpuRunner.open();
  assert.ok(runner);
  await use(runner);
  runner.close();
}

function kernelShape({ shape: [samples, height, width, channels], groups }: CaseShape) {
  return { samples, pixels: height * width, channels, groups };
}

/** Everything that is wrong with the compiled form of a layer at a shape. */
async function mistakes(
  runner: WebgpuRunner,
  layer: Layer,
  options: CaseShape,
  seed: string,
  { modes = ["training", "inference"], ...settings }: WgslOptions & { modes?: readonly Mode[] } = {},
): Promise<string[]> {
  const draws = stream(2).child(seed);
  const data = layerData(draws.child("data"), options);
  const moving = movingMoments(layer, draws.child("moving"), options);
  const inputs = new Map([
    ...Object.entries(data),
    ...[...moving].map(([node, values]) => [`statistic${node}`, values] as const),
  ]);
  const found: string[] = [];
  for (const mode of modes) {
    const programs = layerPrograms(layer, mode);
    const schedules = [schedule(programs.forward), schedule(programs.backward)];
    const measured = await runner.run(schedules, kernelShape(options), inputs, settings);
    const forward = new Set(programs.forward.vectors.map(({ name }) => name)).add("y");
    const result = (name: string) => measured.get(`out:${forward.has(name) ? name : name.slice(1)}`);
    for (const [name, reference] of expected(layer, mode, data, moving, options)) {
      // Gradients of vectors that the layer does not read are not computed: they are zero.
      const wrong = mistake(result(name) ?? new Float32Array(reference.values.length), reference);
      if (wrong !== null) found.push(`${name} in ${mode}, [${options.shape}]: ${wrong}`);
    }
  }
  return found;
}

function layerOf(name: string): Layer {
  const { graph, post } = publishedLayer(name);
  return post === undefined ? { graph } : { graph, post };
}

// Software drivers take long to compile a shader: each layer is tried at two of the shapes.
Object.keys(published).forEach((name, index) =>
  onWebgpu(`${name} at odd shapes`, () =>
    withRunner(async (runner) => {
      for (const at of [index, index + 2]) {
        assert.deepEqual(await mistakes(runner, layerOf(name), oddShapes[at % oddShapes.length]!, name), []);
      }
    }))
);

onWebgpu("more pixels and channels than a workgroup takes", () =>
  withRunner(async (runner) => {
    const large = { shape: [2, 17, 19, 72], groups: 9 } as const;
    for (const name of ["EvoNorm-B0", "GN-ReLU"]) {
      assert.deepEqual(await mistakes(runner, layerOf(name), large, name, { modes: ["training"] }), []);
    }
  }));

const COUNT = 504, PARTS = 8;
/** Small ones, as the reference takes longest. */
const smallShapes: readonly CaseShape[] = oddShapes.map(({ shape, groups }) => ({
  shape: [shape[0], Math.min(shape[1], 5), Math.min(shape[2], 3), shape[3]],
  groups,
}));
for (let part = 0; part < PARTS; part++) {
  onWebgpu(`random graphs, part ${part + 1} of ${PARTS} of ${COUNT}`, () =>
    withRunner(async (runner) => {
      const wrong: Record<string, string[]> = {};
      for (let index = part; index < COUNT; index += PARTS) {
        const graph = randomGraph(stream("graphs on webgpu").child(index));
        // Without moments over the batch, inference is the same program as training.
        const modes: Mode[] = batchMoments(graph).length > 0 ? ["training", "inference"] : ["training"];
        const shape = smallShapes[index % smallShapes.length]!;
        const found = await mistakes(runner, { graph }, shape, `random ${index}`, { modes });
        if (found.length > 0) wrong[`${index}: ${formula(graph)}`] = found;
      }
      assert.deepEqual(wrong, {});
    }));
}

/** A sum of many moments over the batch: in inference each is a vector of its own. */
function manyMoments(): LayerGraph {
  const nodes: GraphNode[] = [{ op: "Mul", inputs: [0, 2] }, { op: "Add", inputs: [4, 3] }];
  for (const op of ["mean", "rms", "std"] as const) {
    for (const input of [0, 4, 5]) nodes.push({ op, inputs: [input], axes: "bwh" });
  }
  for (let at = 6; at < 15; at++) nodes.push({ op: "Add", inputs: [nodes.length + 3, at] });
  return { nodes };
}

onWebgpu("more vectors than a shader may bind", () =>
  withRunner(async (runner) => {
    const layer = { graph: manyMoments() };
    const programs = layerPrograms(layer, "inference");
    const shape = oddShapes[0]!;
    for (const mostBuffers of [6, 8]) {
      const { dispatches } = wgslKernel(schedule(programs.forward), kernelShape(shape), { mostBuffers });
      assert.ok(dispatches.every(({ bindings }) => bindings.length <= mostBuffers));
      assert.deepEqual(await mistakes(runner, layer, shape, "many", { mostBuffers }), []);
    }
    assert.throws(
      () => wgslKernel(schedule(programs.forward), kernelShape(shape), { mostBuffers: 5 }),
      /RangeError: Cannot write shaders as 'mostBuffers' must be at least 6: current value is 5/,
    );
  }));

onWebgpu(
  "primitives of numbers that are special, NaN and infinities among them",
  () =>
    withRunner(async (runner) => {
      const some = [0, 3e-6, 1e-5, 0.3, 0.624, 0.7, 1, 2, 5, 87, 89, 104, 150, 1e20, 3e38, Infinity];
      const all = [NaN, ...some, ...some.map((value) => -value)];
      const pairs = all.flatMap((a) =>
        [NaN, 0, -0, 5e-6, -5e-6, 0.3, -2, Infinity, -Infinity].map((b) => [a, b])
      );
      const channels = pairs.length;
      const ones = new Float32Array(channels).fill(1);
      const inputs: Record<string, Float32Array> = {
        x: Float32Array.from(pairs, ([a]) => a!),
        v0: Float32Array.from(pairs, ([, b]) => b!),
        v1: ones,
        gamma: ones,
        beta: new Float32Array(channels),
        tau: ones,
      };
      const graphs: LayerGraph[] = [
        ...unaryPrimitives.map((op): LayerGraph => ({ nodes: [{ op, inputs: [0] }] })),
        ...binaryPrimitives.map((op): LayerGraph => ({ nodes: [{ op, inputs: [0, 2] }] })),
        // What a compiler takes for 0 whatever x is.
        { nodes: [{ op: "Mul", inputs: [0, 1] }] },
        { nodes: [{ op: "Neg", inputs: [0] }, { op: "Add", inputs: [0, 4] }] },
      ];
      for (const graph of graphs) {
        const options: CaseShape = { shape: [1, 1, 1, channels], groups: 1 };
        const outputs = await runner.run(
          [schedule(layerPrograms({ graph }).forward)],
          kernelShape(options),
          new Map(Object.entries(inputs)),
        );
        const { y } = evaluateExtended(layerForward({ graph }), inputs, options);
        const { op } = graph.nodes[0]!;
        outputs.get("out:y")!.forEach((value, index) => {
          const due = Math.fround(y[index]!);
          // A few units in the last place, and numbers below the normal ones may be 0; ln(|a| + eps) rounds its argument.
          const allowed = 1e-6 * Math.abs(due) + (op === "Log" ? 1e-7 : 2e-38);
          assert.ok(
            Object.is(value, due) || value === due || Math.abs(value - due) <= allowed,
            `${op} of ${pairs[index]!}: ${value} is not ${due}`,
          );
        });
      }
    }),
);

onWebgpu("gradients at kinks, ties, clamps and NaN", () =>
  withRunner(async (runner) => {
    const some = [0, -0, 3e-6, -3e-6, 2e-5, -2e-5, 0.3, -0.3, 2, -2];
    const pairs = some.flatMap((a) => some.map((b) => [a, b] as const));
    const run = async (layer: Layer, pairs: readonly (readonly [number, number])[]) => {
      const channels = pairs.length;
      const inputs: Record<string, Float32Array> = {
        x: Float32Array.from(pairs, ([a]) => a),
        dy: Float32Array.from(pairs, (_, index) => 1 + index),
        v0: Float32Array.from(pairs, ([, b]) => b),
        v1: new Float32Array(channels).fill(1),
        gamma: new Float32Array(channels).fill(1),
        beta: new Float32Array(channels),
        tau: new Float32Array(channels),
      };
      const options: CaseShape = { shape: [1, 1, 1, channels], groups: 1 };
      const programs = layerPrograms(layer);
      const schedules = [schedule(programs.forward), schedule(programs.backward)];
      const outputs = await runner.run(schedules, kernelShape(options), new Map(Object.entries(inputs)));
      return { inputs, options, outputs };
    };
    const graphs: LayerGraph[] = [
      ...(["Abs", "Log", "Sqrt"] as const).map((op): LayerGraph => ({ nodes: [{ op, inputs: [0] }] })),
      ...[[0, 2], [2, 0]].map((inputs): LayerGraph => ({ nodes: [{ op: "Div", inputs }] })),
      { nodes: [{ op: "Max", inputs: [0, 2] }] },
    ];
    for (const graph of graphs) {
      const { inputs, options, outputs } = await run({ graph }, pairs);
      const due = evaluateExtended(layerDerivative({ graph }), inputs, options);
      for (const name of ["x", "v0"] as const) {
        outputs.get(`out:${name}`)?.forEach((value, index) => {
          const allowed = 2e-6 * Math.abs(due[name][index]!); // a few units in the last place
          assert.ok(
            Math.abs(value - due[name][index]!) <= allowed,
            `d${name} of ${formula(graph)} at ${pairs[index]!}: ${value} is not ${due[name][index]!}`,
          );
        });
      }
    }
    // The ReLU of libraries lets nothing through at 0, and a NaN both ways.
    const relu: LayerGraph = { nodes: [{ op: "Max", inputs: [0, 1] }] };
    const numbers = [0, -0, 0.3, -0.3, Infinity, -Infinity, NaN].map(Math.fround);
    const { inputs, outputs } = await run(
      { graph: { nodes: [{ op: "Neg", inputs: [0] }] }, post: relu },
      numbers.map((number) => [number, 0] as const),
    );
    const unsigned = (values: Float32Array) => Array.from(values, (value) => value === 0 ? 0 : value);
    assert.deepEqual(
      unsigned(outputs.get("out:y")!),
      numbers.map((number) => number < 0 ? -number : Number.isNaN(number) ? NaN : 0),
    );
    assert.deepEqual(
      unsigned(outputs.get("out:x")!),
      numbers.map((number, index) => number < 0 || Number.isNaN(number) ? -inputs.dy![index]! : 0),
    );
  }));

onWebgpu(
  "layers of TensorFlow.js: no tensor is left behind, and a broken shader is an error with the formula",
  async () => {
    await useBackend("webgpu", { allowSoftware: true });
    const backend = tf.backend() as WebGPUBackend;
    const step = (layer: NormActivation) => {
      const x = tf.randomUniform<tf.Rank.R4>([2, 3, 3, 8]);
      const [y, dx] = tf.tidy(() => {
        const gradient = tf.grad((x) => layer.apply(x as tf.Tensor4D, true));
        return [layer.apply(x, true), gradient(x)];
      });
      return { all: [x, y!, dx!], y: y! };
    };
    const make = (of: string | LayerGraph) => new NormActivation(of, 8, new Parameters(), { groups: 4 });
    const layer = make("EvoNorm-B0");
    const first = step(layer);
    tf.dispose(first.all);
    const { numTensors } = tf.memory(), ids = backend.numDataIds();
    for (let index = 0; index < 3; index++) tf.dispose(step(layer).all);
    assert.equal(tf.memory().numTensors, numTensors);
    assert.equal(backend.numDataIds(), ids);

    const graph = {
      nodes: [{ op: "std", inputs: [0], axes: "wh" }, { op: "Div", inputs: [0, 4] }],
    } as LayerGraph;
    const create = backend.device.createShaderModule.bind(backend.device);
    backend.device.createShaderModule = (descriptor) =>
      create({ ...descriptor, code: descriptor.code.replaceAll("sqrt(", "nonsense(") });
    const broken = step(make(graph));
    const report = /the device reports GPUValidationError[^]*x \/ std\[wh\]\(x\)[^]*nonsense/;
    await assert.rejects(() => broken.y.data(), report);
    assert.throws(() => tf.square(broken.y), report);
    assert.throws(() => step(layer), report);
    // The failed device is replaced; what was on it is void.
    await useBackend("webgpu", { allowSoftware: true });
    const mended = step(make("EvoNorm-B0"));
    assert.ok((await mended.y.data()).every(Number.isFinite));
  },
);
