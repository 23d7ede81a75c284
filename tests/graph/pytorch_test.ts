import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import {
  active,
  evaluateExtended,
  evaluateLayer,
  initialNodes,
  layerDerivative,
  type LayerGraph,
  type Numbers,
  published,
  publishedLayer,
  pytorchModule,
  statisticValues,
  validate,
} from "../../lib/graph/mod.ts";
import { assertClose, goldenGraph, goldenGraphs, numbers, readTensors } from "./_golden.ts";

const driver = fileURLToPath(new URL("_pytorch_driver.py", import.meta.url));
const findTorch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
const python = [Deno.env.get("NORMLAB_TORCH_PYTHON"), "python3"].find((command) =>
  command !== undefined && command !== "" && spawnSync(command, ["-c", findTorch]).status === 0
);
const ignore = python === undefined;
const reason = ignore ? " (skipped: no python3 with torch, NORMLAB_TORCH_PYTHON names one)" : "";

interface Job {
  readonly text: string;
  readonly arguments: Record<string, number>;
  readonly inputs: string;
  readonly steps: number;
}

type Inputs = Record<string, readonly number[]>;

interface Outcome {
  readonly y: number[];
  readonly dx: number[];
  readonly y_eval: number[];
  readonly dx_eval: number[];
  readonly buffers: Record<string, number[]>;
}

function runTorch(
  jobs: readonly Job[],
  inputs: Record<string, Inputs>,
): (Outcome & Record<string, number[]>)[] {
  const { stdout, stderr, status } = spawnSync(python!, [driver], {
    input: JSON.stringify({ jobs, inputs }),
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout);
}

const usesGroups = (text: string) => text.includes("groups=");

Deno.test({
  name: `written modules in PyTorch: reference graphs, outputs, gradients, inference form${reason}`,
  ignore,
  fn() {
    const tensors = readTensors("graphs/tensors.safetensors");
    const { shape_nhwc: shape, groups, graphs } = goldenGraphs;
    const sets = ["generic", "init"] as const;
    const inputs = Object.fromEntries(sets.map((set) => {
      const vectors = ["x", "dy", "v0", "v1", "gamma", "beta"].map((name) =>
        [name, Array.from(tensors.get(`${set}/${name}`)!)] as const
      );
      return [set, { ...Object.fromEntries(vectors), shape }];
    }));
    const cases = sets.flatMap((set) =>
      graphs.filter((golden) => golden[set].well_conditioned).map((golden) => ({ set, golden }))
    );
    assert.ok(cases.length > 400);
    const jobs = cases.map(({ set, golden }): Job => {
      const text = pytorchModule(goldenGraph(golden), { name: `graph ${golden.id}` });
      return { text, inputs: set, steps: 1, arguments: usesGroups(text) ? { groups } : {} };
    });
    const results = runTorch(jobs, inputs);
    cases.forEach(({ set, golden }, k) => {
      const { buffers, dx_eval: _, ...values } = results[k]!;
      for (const [name, numbers] of Object.entries(values) as [string, number[]][]) {
        const all = tensors.get(`${set}/${name}`)!;
        const size = all.length / graphs.length;
        const reference = all.subarray(golden.id * size, (golden.id + 1) * size);
        assertClose(Float64Array.from(numbers), reference, `graph ${golden.id} ${set}/${name}`);
      }
      for (const vector of ["v0", "v1"]) {
        const read = golden.active.includes(vector === "v0" ? 2 : 3);
        assert.equal(`d${vector}` in values, read, `graph ${golden.id} has ${vector} only where it is read`);
      }
      if (set !== "generic") return;
      const reference = golden.buffers_after_one_step;
      const byNode = new Map(
        Object.entries(buffers).map(([name, buffer]) => [name.split("_").at(-1)!, buffer]),
      );
      assert.deepEqual([...byNode.keys()].sort(), Object.keys(reference).sort(), `graph ${golden.id}`);
      for (const [node, expected] of Object.entries(reference)) {
        assertClose(
          Float64Array.from(byNode.get(node)!),
          Float64Array.from(expected),
          `graph ${golden.id} buffer ${node}`,
        );
      }
    });
  },
});

// Both are float64 and differ in the order of their sums only; the values are of size 1, built from up to 240 numbers.
const tolerance = 1e-11;

function assertNear(actual: readonly number[], reference: ArrayLike<number>, what: string): void {
  assert.equal(actual.length, reference.length, what);
  const scale = Array.from(reference).reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  actual.forEach((value, i) =>
    assert.ok(Math.abs(value - reference[i]!) <= tolerance * scale, `${what}: ${value}, not ${reference[i]}`)
  );
}

Deno.test({
  name:
    `written modules in PyTorch: published layers, two training steps, inference, 5 groups of 12 channels${reason}`,
  ignore,
  fn() {
    const shape = [3, 4, 5, 12] as const;
    const [asked, groups] = [5, 4]; // 5 do not divide 12, so 4 are taken
    const draw = numbers(7);
    // A share of zeros: kinks and ties.
    const x = Array.from(draw(720), (value, i) => i % 7 === 0 ? 0 : value);
    const vector = (centre: number) => Array.from(draw(12), (value) => centre + 0.2 * value);
    const vectors = {
      v0: vector(0),
      v1: vector(1),
      gamma: vector(1),
      beta: vector(0).map((value, c) => c % 4 === 0 ? 0 : value),
      tau: vector(0).map((value, c) => c % 4 === 0 ? 0 : value),
    };
    const dy = Array.from(draw(720));
    const layers = Object.values(published);
    const results = runTorch(
      layers.map((layer) => {
        const text = pytorchModule(layer);
        return { text, inputs: "all", steps: 2, arguments: usesGroups(text) ? { groups: asked } : {} };
      }),
      { all: { x, dy, shape: [...shape], ...vectors } },
    );
    layers.forEach((layer, k) => {
      const { buffers, ...values } = results[k]!;
      const setting = { shape, groups, epsilon: layer.epsilon ?? 1e-5 };
      const first = evaluateLayer(layer, { x, ...vectors, ...setting });
      const second = evaluateLayer(layer, { x, ...vectors, ...setting, buffers: first.buffers });
      const inference = evaluateLayer(layer, {
        x,
        ...vectors,
        ...setting,
        buffers: second.buffers,
        mode: "inference",
      });
      const given: Record<string, Numbers> = { x, dy, ...vectors };
      const { x: dx, ...gradient } = evaluateExtended(layerDerivative(layer), given, setting);
      const statistics = statisticValues(layer.graph, second.buffers, setting.epsilon);
      const inferenceGradient = evaluateExtended(
        layerDerivative(layer, "inference"),
        { ...given, ...statistics },
        setting,
      );
      const check = (name: string, reference: ArrayLike<number>) =>
        assertNear(values[name] as number[], reference, `${layer.name} ${name}`);
      check("y", second.y);
      check("y_eval", inference.y);
      check("dx", dx);
      check("dx_eval", inferenceGradient.x);
      for (const name of Object.keys(vectors) as (keyof typeof vectors)[]) {
        if (`d${name}` in values) check(`d${name}`, gradient[name]);
        else assert.ok(gradient[name].every((value) => value === 0), `${layer.name} leaves ${name} out`);
      }
      assert.deepEqual(
        Object.keys(buffers).map((name) => Number(name.split("_").at(-1))),
        [...second.buffers.keys()],
      );
      Object.values(buffers).forEach((buffer, at) =>
        assertNear(buffer, [...second.buffers.values()][at]!, `${layer.name} statistics`)
      );
    });
  },
});

Deno.test({
  name: `written modules in PyTorch: one channel for all, one pixel, one group, names that mislead${reason}`,
  ignore,
  fn() {
    const constant: LayerGraph = validate({
      nodes: [
        { op: "Exp", inputs: [1] },
        { op: "mean", inputs: [4], axes: "bwh" },
        { op: "std", inputs: [5], axes: "whc/g" },
        { op: "rms", inputs: [0], axes: "whc" },
        { op: "mean", inputs: [7], axes: "whc/g" },
        { op: "Add", inputs: [6, 8] },
      ],
    });
    const shape = [2, 1, 1, 3] as const;
    const x = [0.5, -1, 2, 0, 3, -0.25];
    const text = pytorchModule(constant, { name: 'None" \\ \n"""' });
    const inputs = { x, dy: [1, 2, 3, 4, 5, 6], shape: [...shape], gamma: [1, 2, 3], beta: [0, 1, 0] };
    const [result] = runTorch([{ text, inputs: "one", steps: 1, arguments: {} }], { one: inputs });
    const { y, buffers } = evaluateLayer({ graph: constant }, {
      x,
      gamma: inputs.gamma,
      beta: inputs.beta,
      shape,
      groups: 3,
    });
    assertNear(result!.y, y, "y");
    assertNear(result!.buffers["moving_mean_5"]!, buffers.get(5)!, "moving mean");
  },
});

Deno.test("a written module has what its layer reads and no more", () => {
  const s0 = pytorchModule(publishedLayer("EvoNorm-S0a"));
  assert.match(s0, /^class EvoNormS0a\(nn\.Module\):$/m);
  assert.match(s0, /def __init__\(self, channels, groups=32, eps=1e-3\):/);
  assert.match(s0, /z = x \* torch\.sigmoid\(v1 \* x\) \/ std_whc_g$/m);
  assert.doesNotMatch(s0, /self\.v0|self\.tau|register_buffer|decay|zero\b/);
  const bn = pytorchModule(publishedLayer("BN-ReLU"), { name: "my layer", decay: 0.99 });
  assert.match(bn, /^class MyLayer\(nn\.Module\):$/m);
  assert.match(bn, /channels, eps=1e-5, decay=0\.99\)/);
  assert.match(bn, /register_buffer\("moving_variance_7", torch\.ones\(channels\)\)/);
  assert.doesNotMatch(bn, /groups|v0|v1|safe_/);
});

Deno.test("a graph of shared nodes is written in linear length", () => {
  // Written out as one formula, the last of these sums would have 2^200 terms.
  const nodes = Array.from({ length: 200 }, (_, k) => {
    const at = k === 0 ? 0 : initialNodes.length + k - 1;
    return { op: "Add", inputs: [at, at] };
  });
  const graph = validate({ nodes });
  assert.equal(active(graph).length, 201);
  assert.ok(pytorchModule(graph).length < 20_000);
});

Deno.test("what cannot be written is refused", () => {
  const layer = {
    ...publishedLayer("LN"),
    post: validate({ nodes: [{ op: "mean", inputs: [0], axes: "bwh" }] }),
  };
  assert.throws(() => pytorchModule(layer), /^TypeError: Cannot write .*'post' must have no moment/);
  const { graph } = publishedLayer("EvoNorm-B0");
  assert.throws(() => pytorchModule(graph, { groups: 0 }), /^RangeError: .*'groups' .* is 0/);
  assert.throws(() => pytorchModule(graph, { epsilon: 2 }), /^RangeError: .*'epsilon' .* is 2/);
  assert.throws(() => pytorchModule(graph, { decay: NaN }), /^RangeError: .*'decay' .* is NaN/);
  assert.throws(() => pytorchModule({ nodes: [] }), /^RangeError: Cannot read the layer graph/);
});
