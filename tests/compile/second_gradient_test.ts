import assert from "node:assert/strict";
import { type KernelShape, layerPrograms, schedule, secondGradientProgram } from "../../lib/compile/mod.ts";
import {
  differentiate,
  evaluateExtended,
  layerDerivative,
  type Mode,
  published,
  publishedLayer,
} from "../../lib/graph/mod.ts";
import { availableBackends, stream } from "../../lib/tensor/mod.ts";
import {
  type CaseShape,
  expectedSecond,
  type Layer,
  layerData,
  mistake,
  movingMoments,
  oddShapes,
  randomGraph,
  secondUpstream,
} from "./_random_graphs.ts";
import { runSecondGradient } from "./_run_wasm.ts";
import { WebgpuRunner } from "./_webgpu_runner.ts";

/** How many outputs had values to compare, and how many had not (they amplify rounding, or are not finite). */
const outputs = { compared: 0, left: 0 };

/** Runs the program of a layer's second derivative on tensors by name; results by name. */
type Run = (
  layer: Layer,
  tensors: Readonly<Record<string, Float32Array>>,
  shape: KernelShape,
  mode: Mode,
) => Record<string, Float32Array> | Promise<Record<string, Float32Array>>;

/** Everything that is wrong with the compiled second derivative of a layer at a shape. */
async function mistakes(run: Run, layer: Layer, options: CaseShape, seed: string): Promise<string[]> {
  const draws = stream(11).child(seed);
  const data = {
    ...layerData(draws.child("data"), options),
    ...secondUpstream(draws.child("upstream"), options),
  };
  const moving = movingMoments(layer, draws.child("moving"), options);
  const [samples, height, width, channels] = options.shape;
  const shape = { samples, pixels: height * width, channels, groups: options.groups };
  const statistics = Object.fromEntries([...moving].map(([node, values]) => [`statistic${node}`, values]));
  const found: string[] = [];
  for (const mode of ["training", "inference"] as const) {
    const measured = await run(layer, { ...data, ...statistics }, shape, mode);
    for (const [name, reference] of expectedSecond(layer, mode, data, moving, options)) {
      // Gradients to vectors that the layer does not read are not computed: they are zero.
      const values = measured[name] ?? new Float32Array(reference.values.length);
      outputs[reference.tolerance === null ? "left" : "compared"]++;
      const wrong = mistake(values, reference);
      if (wrong !== null) found.push(`${name} in ${mode}, [${options.shape}]: ${wrong}`);
    }
  }
  return found;
}

const onWasm = (relaxed: boolean): Run => (layer, tensors, shape, mode) =>
  runSecondGradient(layer, tensors, shape, mode, { relaxed });

function layerOf(name: string): Layer {
  // ReLU's gradient at 0 differs from the graph's, but no value is exactly 0 here.
  const { graph, post } = publishedLayer(name);
  return post === undefined ? { graph } : { graph, post };
}

for (const name of Object.keys(published)) {
  Deno.test(`wasm: second derivative of ${name} at odd shapes, with fused multiply-adds and without`, async () => {
    for (const relaxed of [true, false]) {
      for (const shape of oddShapes) {
        assert.deepEqual(await mistakes(onWasm(relaxed), layerOf(name), shape, name), []);
      }
    }
  });
}

/** What is wrong with random graphs, by graph. */
async function mistakesOfRandom(indices: readonly number[], run: (index: number) => Run) {
  const wrong: Record<string, string[]> = {};
  for (const index of indices) {
    const graph = randomGraph(stream(12).child(String(index)), 4 + index % 9);
    const shape = oddShapes[Math.floor(index / 4) % oddShapes.length]!;
    const found = await mistakes(run(index), { graph }, shape, String(index));
    if (found.length > 0) wrong[`${index} ${JSON.stringify(graph.nodes)}`] = found;
  }
  return wrong;
}

const COUNT = 200, PARTS = 4;
for (let part = 0; part < PARTS; part++) {
  Deno.test(`wasm: second derivatives of random graphs, part ${part + 1} of ${PARTS} of ${COUNT}`, async () => {
    const indices = Array.from({ length: COUNT / PARTS }, (_, at) => part + PARTS * at);
    assert.deepEqual(await mistakesOfRandom(indices, (index) => onWasm(index % 3 !== 0)), {});
  });
}

Deno.test("wasm: most second derivatives of the random graphs were compared", () => {
  const { compared, left } = outputs;
  assert.ok(compared > 2 * left, `${compared} outputs compared, ${left} not`);
});

Deno.test("wasm: second derivatives are those of the graph at kinks, and vanish where the ReLU after the affine is off", () => {
  const x = [-1, 0, 2];
  const tensors = {
    x,
    dy: [1, 2, 3],
    ddx: [1, 1, 1],
    ...Object.fromEntries(
      ["v0", "v1", "gamma", "beta", "tau"].flatMap((
        name,
      ) => [[name, [name === "gamma" ? 1 : 0]], [`dd${name}`, [0]]]),
    ),
  };
  const shape = { samples: 1, pixels: 3, channels: 1, groups: 1 };
  for (const op of ["Abs", "Log", "Sqrt", "Max"] as const) {
    const graph = { nodes: [{ op, inputs: op === "Max" ? [0, 1] : [0] }] };
    const second = differentiate(layerDerivative({ graph }), ["x", "dy", "gamma"]);
    const exact = evaluateExtended(second, tensors, { shape: [1, 3, 1, 1] });
    const measured = runSecondGradient({ graph }, tensors, shape);
    for (const name of ["x", "dy", "gamma"] as const) {
      const worst = Math.max(...exact[name].map((value, at) => Math.abs(value - measured[name]![at]!)));
      const scale = Math.max(1, ...exact[name].map(Math.abs));
      // Float32, a handful of operations.
      assert.ok(worst <= 1e-6 * scale, `${op}, ${name}: ${[...measured[name]!]}, not ${[...exact[name]]}`);
    }
  }
  const square = {
    graph: { nodes: [{ op: "Mul" as const, inputs: [0, 0] }, { op: "Mul" as const, inputs: [4, 0] }] },
  };
  const { post } = publishedLayer("BN-ReLU");
  // y = relu(x^3): dx = 3 x^2 dy and d(sum dx)/dx = 6 x dy where x > 0, nothing at 0 and below.
  const measured = runSecondGradient({ ...square, post: post! }, tensors, shape);
  assert.deepEqual([...measured["x"]!].map((value) => value + 0), [0, 0, 36]);
  assert.deepEqual([...measured["dy"]!].map((value) => value + 0), [0, 0, 12]);
});

const missing = (await availableBackends({ allowSoftware: true })).get("webgpu")!;

// Software drivers take long to compile a shader: a few layers, each at one shape.
Deno.test({
  name: `webgpu: second derivatives${missing === null ? "" : ` (skipped: ${missing})`}`,
  ignore: missing !== null,
  async fn() {
    const runner = (await WebgpuRunner.open())!;
    const run: Run = async (layer, tensors, shape, mode) => {
      const programs = [layerPrograms(layer, mode).forward, secondGradientProgram(layer, mode)];
      const written = await runner.run(programs.map(schedule), shape, new Map(Object.entries(tensors)));
      return Object.fromEntries([...written].map(([name, values]) => [name.slice("out:".length), values]));
    };
    for (const [index, name] of ["EvoNorm-B0", "EvoNorm-S0", "BN-ReLU", "FRN-TLU"].entries()) {
      assert.deepEqual(await mistakes(run, layerOf(name), oddShapes[index]!, name), []);
    }
    const indices = Array.from({ length: 32 }, (_, index) => index);
    assert.deepEqual(await mistakesOfRandom(indices, () => run), {});
    runner.close();
  },
});
