/** The group `models`: the anchor networks in their published form, sizes and outputs, with weights made from names. */
import * as tf from "@tensorflow/tfjs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type PublishedLayer, publishedLayer } from "../../lib/graph/mod.ts";
import type { LayerSource, Parameter } from "../../lib/layers/mod.ts";
import { efficientNet, type ImageModel, mobileNet, parameterCount, resnet } from "../../lib/models/mod.ts";
import { readSafetensors, type Stream, stream } from "../../lib/tensor/mod.ts";
import { formulaKernel, formulaTensor } from "./_formula_weights.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

interface StageFacts {
  shape_nhwc: number[];
  mean: number;
  std: number;
  max_abs: number;
  first: number[];
  last: number[];
}

interface Reference {
  prefix: string;
  input: { name: string; shape_nhwc: [number, number, number, number] };
  runs: Record<string, { stages: Record<string, StageFacts> }>;
}

interface Size {
  input_hwc: [number, number, number];
  parameters_total: number;
  parameters_total_B0: number;
  parameters_total_S0: number;
  stage_shapes_hwc: Record<string, number[]>;
}

/**
 * Plain float32 PyTorch is up to 7e-5 of the largest magnitude from the float64 reference, after fifty convolutions; other orders of
 * summation are as far again, and batch statistics of two images amplify it.
 */
const TOLERANCE = 5e-4;

/** max(min(x, 6), 0) as a graph: its threshold v0 is set to 6. */
const relu6: PublishedLayer = {
  name: "BN-ReLU6",
  graph: publishedLayer("BN-ReLU").graph,
  post: {
    nodes: [
      { op: "Max", inputs: [0, 1] },
      { op: "Neg", inputs: [4] },
      { op: "Neg", inputs: [2] },
      { op: "Max", inputs: [5, 6] },
      { op: "Neg", inputs: [7] },
    ],
  },
  source: "Sandler et al. 2018, arXiv 1801.04381",
};

/** A reference network: ours, and the reference's names. */
interface Network {
  build: (layer: LayerSource, evaluation: Evaluation["evaluation"], stream: Stream) => ImageModel;
  /** The batch-norm layer that it was published with. */
  batchNorm: LayerSource;
  /** The reference's name of a module, by our own. */
  moduleName: (name: string) => string;
  stageName: (name: string) => string;
}

const form = { classes: 1000, images: "large", padding: "symmetric" } as const;

const networks: Record<string, Network> = {
  resnetv2_50: {
    build: (layer, evaluation, stream) =>
      resnet(
        { ...form, block: "bottleneck", blocks: [3, 4, 6, 3], width: 64, layer, norm: { evaluation } },
        stream,
      ),
    batchNorm: "BN-ReLU",
    moduleName: (name) =>
      name.replace(/^stage(\d+)\.block(\d+)/, (_, stage, block) => `stages.${stage - 1}.blocks.${block - 1}`)
        .replace("projection", "downsample.conv").replace(/^stem/, "stem.conv").replace(
          "classifier",
          "head.fc",
        ),
    stageName: (name) => name.replace(/^stage(\d+)/, (_, stage) => `stages.${stage - 1}`),
  },
  mobilenetv2_100: {
    build: (layer, evaluation, stream) => mobileNet({ ...form, layer, norm: { evaluation } }, stream),
    batchNorm: relu6,
    moduleName: invertedName,
    stageName: invertedStage,
  },
  efficientnet_b0: {
    build: (layer, evaluation, stream) => efficientNet({ ...form, layer, norm: { evaluation } }, stream),
    batchNorm: "BN-SiLU",
    moduleName: invertedName,
    stageName: invertedStage,
  },
};

function invertedName(name: string): string {
  const [, stage, block, module] = /^stage(\d+)\.block(\d+)\.(.*)$/.exec(name) ?? [];
  if (module === undefined) {
    return { stem: "conv_stem", "stem.norm": "bn1", head: "conv_head", "head.norm": "bn2" }[name] ?? name;
  }
  // Without expansion there is one convolution and one norm less, and the projection is named as the expansion is elsewhere.
  const names: Record<string, string> = stage === "1"
    ? { depthwise: "conv_dw", norm2: "bn1", project: "conv_pw", norm3: "bn2" }
    : {
      expand: "conv_pw",
      norm1: "bn1",
      depthwise: "conv_dw",
      norm2: "bn2",
      project: "conv_pwl",
      norm3: "bn3",
    };
  const timm = names[module] ?? module.replace("squeeze.", "se.conv_");
  return `blocks.${Number(stage) - 1}.${Number(block) - 1}.${timm}`;
}

function invertedStage(name: string): string {
  if (name === "stem") return "bn1";
  return name === "norm" ? "bn2" : name.replace(/^stage(\d+)/, (_, stage) => `blocks.${stage - 1}`);
}

/** Compares every network of `folder` with each layer on the current backend. */
export async function checkModels(
  folder: string,
  { evaluation }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const json = async (name: string) => JSON.parse(await readFile(join(folder, name), "utf8"));
  const reference: Reference = await json("forward.json");
  // A folder of other inputs may lack what does not depend on them.
  const names = await readdir(folder);
  const sizes: Record<string, Size> = names.includes("sizes.json") ? (await json("sizes.json")).models : {};
  const logits = readSafetensors(await readFile(join(folder, "logits.safetensors")));
  const { shape_nhwc: shape, name } = reference.input;
  const input = tf.tensor4d(formulaTensor(name, shape.reduce((a, b) => a * b), -1, 1), shape);
  const few = tf.getBackend() === "webgpu";
  const comparisons: Comparison[] = [
    compare("models/input", await input.data(), logits.get("input_nhwc")!.data as Float32Array, shape, 0),
  ];
  for (const [id, network] of Object.entries(networks)) {
    const kernels = new Map<string, Float32Array>();
    for (const kind of ["BN", "B0", "S0"] as const) {
      const layer = kind === "BN" ? network.batchNorm : `EvoNorm-${kind}`;
      const model = network.build(layer, evaluation, stream(0));
      if (sizes[id]) {
        comparisons.push(compareCount(id, kind, model, sizes[id]));
        if (kind === "BN" && !few) comparisons.push(...compareShapes(id, model, network, sizes[id]));
      }
      for (const variant of few ? ["rich"] as const : ["plain", "rich"] as const) {
        for (const mode of ["eval", "train"] as const) {
          const run = `${id}/${kind}/${variant}/${mode}`;
          const facts = reference.runs[run];
          if (facts === undefined) continue;
          fill(model.parameters, network, reference.prefix, variant, kernels);
          const measured = await forward(model, input, mode === "train");
          const expected = logits.get(`${run}/logits`)!;
          comparisons.push(
            compare(
              `models/${run}/logits`,
              measured.logits,
              expected.data as Float32Array,
              expected.shape,
              TOLERANCE,
            ),
          );
          for (const stage of measured.stages) {
            comparisons.push(
              ...compareStage(`models/${run}`, stage, facts.stages[network.stageName(stage.name)]!),
            );
          }
        }
      }
      model.dispose();
    }
  }
  input.dispose();
  const skipped = few ? ["the variant `plain` and 224 pixels, as software GPUs are slow"] : [];
  return { comparisons, skipped };
}

/** How many numbers the network trains. */
function compareCount(id: string, kind: "BN" | "B0" | "S0", model: ImageModel, size: Size): Comparison {
  const expected = kind === "BN" ? size.parameters_total : size[`parameters_total_${kind}`];
  // ReLU6's threshold is no parameter of the reference.
  const thresholds = model.parameters.filter(({ name }) => name.endsWith(".tau"));
  const count = parameterCount(model) - thresholds.reduce((sum, { variable }) => sum + variable.size, 0);
  return compare(`models/${id}/${kind}/parameters`, [count], [expected], [1], 0);
}

/** The shapes of the stages at the size of image that the network was published with. */
function compareShapes(
  id: string,
  model: ImageModel,
  { stageName }: Network,
  { input_hwc: shape, stage_shapes_hwc: expected }: Size,
): Comparison[] {
  const comparisons: Comparison[] = [];
  tf.tidy(() =>
    model.forward(tf.zeros([1, ...shape]), false, (name, { shape: [, ...measured] }) => {
      const stage = stageName(name);
      comparisons.push(compare(`models/${id}/${stage}/shape`, measured, expected[stage]!, [3], 0));
    })
  );
  return comparisons;
}

/** Gives every parameter the numbers of its name in the reference. */
function fill(
  parameters: readonly Parameter[],
  { moduleName }: Network,
  prefix: string,
  variant: "plain" | "rich",
  kernels: Map<string, Float32Array>,
): void {
  for (const { name, variable } of parameters) {
    const at = name.lastIndexOf(".");
    const [module, leaf] = [moduleName(name.slice(0, at)), name.slice(at + 1)];
    const uniform = (leafName: string, low: number, high: number) =>
      formulaTensor(`${prefix}${module}.${leafName}`, variable.size, low, high);
    const around = (leafName: string, centre: number, by: number) =>
      variant === "rich"
        ? uniform(leafName, centre - by, centre + by)
        : new Float32Array(variable.size).fill(centre);
    let values: Float32Array;
    if (leaf === "kernel") {
      const full = `${prefix}${module}.weight`;
      values = kernels.get(full) ?? formulaKernel(full, variable.shape);
      kernels.set(full, values);
    } else if (leaf === "bias") values = uniform("bias", -0.1, 0.1);
    else if (leaf === "tau") values = new Float32Array(variable.size).fill(6);
    else if (leaf === "gamma") values = around("weight", 1, 0.25);
    else if (leaf === "v1") values = around("v", 1, 0.25);
    else if (leaf.startsWith("moving_variance")) values = around("running_var", 1, 0.25);
    else values = around(leaf === "beta" ? "bias" : "running_mean", 0, 0.1);
    tf.tidy(() => variable.assign(tf.tensor(values, variable.shape)));
  }
}

interface Stage {
  readonly name: string;
  readonly shape: number[];
  readonly values: ArrayLike<number>;
}

/** Logits and the outputs of the stages. */
async function forward(
  model: ImageModel,
  input: tf.Tensor4D,
  training: boolean,
): Promise<{ logits: ArrayLike<number>; stages: Stage[] }> {
  const outputs: { name: string; output: tf.Tensor }[] = [];
  const logits = tf.tidy(() =>
    model.forward(input, training, (name, output) => outputs.push({ name, output: tf.keep(output.clone()) }))
  );
  const stages: Stage[] = [];
  for (const { name, output } of outputs) {
    stages.push({ name, shape: output.shape, values: await output.data() });
    output.dispose();
  }
  const values = await logits.data();
  logits.dispose();
  return { logits: values, stages };
}

/** A stage's shape, moments, and its first and last channels. */
function compareStage(run: string, { name, shape, values }: Stage, facts: StageFacts): Comparison[] {
  const channels = shape.at(-1)!;
  let sum = 0, squares = 0, most = 0;
  for (let i = 0; i < values.length; i++) {
    sum += values[i]!;
    squares += values[i]! ** 2;
    most = Math.max(most, Math.abs(values[i]!));
  }
  const mean = sum / values.length;
  const at = (from: number) =>
    Array.from({ length: Math.min(8, channels) }, (_, index) => values[from + index]!);
  const measured = [
    mean,
    Math.sqrt(squares / values.length - mean * mean),
    most,
    ...at(0),
    ...at(values.length - Math.min(8, channels)),
  ];
  const expected = [facts.mean, facts.std, facts.max_abs, ...facts.first, ...facts.last];
  return [
    compare(`${run}/${name}/shape`, shape, facts.shape_nhwc, [4], 0),
    compare(`${run}/${name}/stage`, measured, expected, [expected.length], TOLERANCE, facts.max_abs),
  ];
}
