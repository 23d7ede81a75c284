/** The group `stability`: gradient ascent on the norm of the loss gradient of a small network, for thirty layer graphs. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type LayerGraph, validate } from "../../lib/graph/mod.ts";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { globalAveragePool, readSafetensors } from "../../lib/tensor/mod.ts";
import { crossEntropy, gradientNorm, type StabilityResult, stabilityTest } from "../../lib/train/mod.ts";
import { compare, type Comparison, type Evaluation, largest } from "./report.ts";

interface Network {
  batch: number;
  width: number;
  classes: number;
  groups: number;
  steps: number;
  parameters: Record<string, { shape: number[]; data: number[] }>;
  x: { shape: [number, number, number, number]; data: number[] };
  labels: number[];
}

interface Sequence {
  id: number;
  norms: (number | null)[];
  losses: (number | null)[];
  first_step_above_1e8: number | null;
  rejected: boolean;
  float32_relative_difference: (number | null)[];
}

/**
 * The ascent is chaotic: float32 leaves the float64 path sooner or later. Norms and losses are compared while plain float32 PyTorch is
 * still within this of float64, at every step so far; verdicts always.
 */
const TOGETHER = 1e-4;

/**
 * How much farther than PyTorch in float32 a backend may be, and the floor where PyTorch happens to round exactly. The second derivative
 * has no figure of its own and loses a digit more: sums of squares are differentiated through every layer twice.
 */
const FACTOR = 64;
const FLOOR = { norm: 5e-5, loss: 5e-5, grad: 5e-5, ascent: 2e-4 };

/**
 * A gradient smaller than this beside the others is a cancellation: in float32 it is rounding, which the ascent then follows. So of the
 * layer x / mean(x), whose mean over the pixels is always 1: the loss of its network does not depend on what comes before it.
 */
const VANISHING = 1e-10;

/** Rounding that makes up this share of the ascent direction leads elsewhere than the reference went. */
const ASTRAY = 1e-4;

/** What a software GPU gets through: one graph in six, this many steps. */
const software = { every: 6, steps: 4 };

/** Compares norms, losses, verdicts, and gradients and ascent directions at the start. */
export async function checkStability(
  folder: string,
  { evaluation }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const json = async (...path: string[]) => JSON.parse(await readFile(join(folder, ...path), "utf8"));
  const setting: Network = await json("net.json");
  const { graphs }: { graphs: (LayerGraph & { id: number })[] } = await json("..", "graphs", "graphs.json");
  const tensors = readSafetensors(await readFile(join(folder, "step0.safetensors")));
  const few = tf.getBackend() === "webgpu";
  const comparisons: Comparison[] = [];
  const astray = new Set<number>();
  for (const file of ["sequences.json", "sequences_small_lr.json"]) {
    const { lr, runs }: { lr: number; runs: Sequence[] } = await json(file);
    for (const run of few ? runs.filter((_, index) => index % software.every === 0) : runs) {
      const { nodes } = graphs.find(({ id }) => id === run.id)!;
      const network = build(validate({ nodes }), setting, evaluation);
      if (file === "sequences.json" && run.float32_relative_difference[0] !== null) {
        const start = await compareStart(network, run, tensors);
        comparisons.push(...start.comparisons);
        if (start.rounding > ASTRAY) astray.add(run.id);
      }
      const steps = few ? software.steps : setting.steps;
      const measured = await stabilityTest(network.loss, network.variables, { steps, rate: lr });
      const name = `stability/${run.id}/rate ${lr}`;
      if (!astray.has(run.id)) comparisons.push(...compareSequence(name, measured, run));
      const rejected = run.first_step_above_1e8 !== null && run.first_step_above_1e8 <= steps;
      comparisons.push(compare(`${name}/rejected`, [Number(measured.rejected)], [Number(rejected)], [1], 0));
      network.dispose();
    }
  }
  const skipped = [
    "norms and losses from where plain float32 has left the float64 path",
    ...[...astray].map((id) =>
      `norms and losses of graph ${id}, whose ascent follows rounding: its gradient there is 0`
    ),
    ...(few
      ? [`all but one graph in ${software.every} and ${software.steps} steps, as software GPUs are slow`]
      : []),
  ];
  return { comparisons, skipped };
}

/** The reference's network: convolution, layer, convolution, layer, mean over pixels, classifier, cross-entropy. */
function build(graph: LayerGraph, setting: Network, evaluation: Evaluation["evaluation"]) {
  const parameters = new Parameters();
  const variables = new Map<string, tf.Variable>();
  for (const [name, { shape, data }] of Object.entries(setting.parameters)) {
    if (name.startsWith("layer")) continue;
    variables.set(name, parameters.create(name, shape, Float32Array.from(data), "weight"));
  }
  const layers = [1, 2].map((index) => {
    const scope = parameters.scope(`layer${index}`);
    return new NormActivation(graph, setting.width, scope, { groups: setting.groups, evaluation });
  });
  for (const { name, variable, kind } of parameters.all) if (kind === "norm") variables.set(name, variable);
  const x = tf.tensor4d(setting.x.data, setting.x.shape);
  const labels = tf.tensor1d(setting.labels, "int32");
  const loss = () => {
    let h = x;
    layers.forEach((layer, index) => {
      h = layer.apply(
        tf.conv2d(h, variables.get(`conv${index + 1}.w`) as tf.Tensor as tf.Tensor4D, 1, "same"),
        true,
      );
    });
    const logits = tf.add(tf.matMul(globalAveragePool(h), variables.get("fc.w")!), variables.get("fc.b")!);
    return crossEntropy(logits as tf.Tensor2D, labels);
  };
  return {
    loss,
    variables: [...variables.values()],
    byName: variables,
    dispose() {
      parameters.dispose();
      tf.dispose([x, labels]);
    },
  };
}

/** Gradients and ascent directions before the first step, of every parameter that the graph reads. */
async function compareStart(
  { loss, byName }: ReturnType<typeof build>,
  run: Sequence,
  tensors: ReturnType<typeof readSafetensors>,
): Promise<{ comparisons: Comparison[]; rounding: number }> {
  const start = gradientNorm(loss, [...byName.values()]);
  const comparisons: Comparison[] = [];
  let rounding = 0;
  for (const [kind, found] of [["grad", start.gradients], ["ascent", start.direction]] as const) {
    const references = [...byName.keys()].map((name) =>
      tensors.get(`${run.id}/${kind}/${name}`)!.data as Float32Array
    );
    const most = Math.max(...references.map(largest));
    const tolerance = FACTOR * run.float32_relative_difference[0]! + FLOOR[kind];
    for (const [index, [name, { shape }]] of [...byName].entries()) {
      const reference = references[index]!;
      const measured = await found[index]!.data();
      const size = largest(reference);
      if (size > 0 && size < VANISHING * most) {
        if (kind === "ascent") rounding = Math.max(rounding, largest(measured) / most);
        continue;
      }
      // A tensor that is the small difference of large terms is only as exact as those.
      const scale = Math.max(size, 1e-2 * most);
      comparisons.push(
        compare(`stability/${run.id}/${name}/${kind}`, measured, reference, shape, tolerance, scale),
      );
    }
  }
  tf.dispose(start);
  return { comparisons, rounding };
}

/** Norms and losses, step by step while float32 can follow. */
function compareSequence(name: string, measured: StabilityResult, run: Sequence): Comparison[] {
  const comparisons: Comparison[] = [];
  let float32 = 0;
  for (const [step, norm] of measured.norms.entries()) {
    float32 = Math.max(float32, run.float32_relative_difference[step] ?? Infinity);
    if (float32 > TOGETHER) break;
    const pairs = [["norm", norm, run.norms[step]!], [
      "loss",
      measured.losses[step]!,
      run.losses[step]!,
    ]] as const;
    for (const [kind, found, reference] of pairs) {
      const tolerance = FACTOR * float32 + FLOOR[kind];
      comparisons.push(compare(`${name}/step ${step}/${kind}`, [found], [reference], [1], tolerance));
    }
  }
  return comparisons;
}
