/** The group `layers`: the published normalization-activation layers, training and inference form, with all gradients. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { readSafetensors } from "../../lib/tensor/mod.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

interface Index {
  eps: number;
  momentum: number;
  layers: string[];
  cases: Record<string, { shape_nhwc: [number, number, number, number]; groups: number; file: string }>;
  float32_error: Record<
    string,
    Record<string, Record<string, { max_abs: number; max_abs_over_scale: number }>>
  >;
}

/** Reference names that are not the published ones: "B0" is EvoNorm-B0. */
const publishedName = (name: string): string => /^[BS]\d$/.test(name) ? `EvoNorm-${name}` : name;

/**
 * How much farther than plain float32 PyTorch a backend may be from the float64 reference: other orders of summation, FMA and
 * vectorised exp and sqrt each change the last bits. The floor covers tensors in which PyTorch happened to round exactly.
 */
const FACTOR = 8;
const FLOOR = 2e-6;

/** Compares every case and layer of `folder` on the current backend. */
export async function checkLayers(
  folder: string,
  { evaluation, toInterpreter = false }: Evaluation,
): Promise<Comparison[]> {
  const index: Index = JSON.parse(await readFile(join(folder, "index.json"), "utf8"));
  const comparisons: Comparison[] = [];
  for (const [caseName, { shape_nhwc: shape, groups, file }] of Object.entries(index.cases)) {
    const tensors = readSafetensors(await readFile(join(folder, file)));
    const reference = (name: string) => tensors.get(name)?.data as Float32Array | undefined;
    for (const layer of index.layers) {
      const take = (evaluation: Evaluation["evaluation"]) =>
        measure(publishedName(layer), { shape, groups, evaluation }, index, reference);
      const measured = await take(evaluation);
      const interpreted = toInterpreter ? await take("interpreted") : null;
      for (const [kind, values] of Object.entries(measured)) {
        const expected = reference(`${layer}/${kind}`);
        if (!expected) continue;
        const name = `layers/${caseName}/${layer}/${kind}`;
        const float32 = index.float32_error[caseName]?.[layer]?.[kind]?.max_abs_over_scale ?? 0;
        const size = expected.length === shape[3] ? [shape[3]] : shape;
        const tolerance = FACTOR * float32 + FLOOR, scale = scaleOf(expected, reference("dy")!);
        comparisons.push(compare(name, values, expected, size, tolerance, scale));
        if (interpreted) {
          comparisons.push(
            compare(`${name} to interpreted`, values, interpreted[kind]!, size, tolerance, scale),
          );
        }
      }
    }
  }
  return comparisons;
}

/**
 * Errors are relative to the largest reference value, but not below the size of the sums' terms: where a gradient is the small
 * difference of large terms (dv of a saturated sigmoid is 0 next to 1), its own size says nothing of the arithmetic.
 */
function scaleOf(expected: Float32Array, dy: Float32Array): number {
  const max = (values: Float32Array) =>
    values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  return Math.max(max(expected), expected.length < dy.length ? 1e-3 * max(dy) : 0) || 1;
}

/** The layer's outputs and gradients on the reference inputs, by the reference's names. */
async function measure(
  layer: string,
  { shape, groups, evaluation }: {
    shape: [number, number, number, number];
    groups: number;
    evaluation: Evaluation["evaluation"];
  },
  { momentum, eps }: Index,
  reference: (name: string) => Float32Array | undefined,
): Promise<Record<string, ArrayLike<number>>> {
  const channels = shape[3];
  const given: Record<string, string> = { gamma: "gamma", beta: "beta", v1: "v1", tau: "tau" };
  const make = () => {
    const parameters = new Parameters();
    const options = { groups, decay: momentum, epsilon: eps, evaluation };
    const norm = new NormActivation(layer, channels, parameters, options);
    for (const { name, variable } of parameters.all) {
      const source = given[name] ?? (name.startsWith("moving_mean") ? "running_mean" : "running_var");
      tf.tidy(() => variable.assign(tf.tensor1d(reference(source)!)));
    }
    return { norm, parameters };
  };
  const dy = tf.tensor4d(reference("dy")!, shape);
  const x = tf.variable(tf.tensor4d(reference("x")!, shape));
  const differentiate = (training: boolean) => {
    const { norm, parameters } = make();
    const trained = parameters.all.filter(({ kind }) => kind !== "statistic");
    let output!: tf.Tensor;
    const { grads, value } = tf.variableGrads(() => {
      output = tf.keep(norm.apply(x, training));
      return tf.sum(tf.mul(output, dy)) as tf.Scalar;
    }, [x, ...trained.map(({ variable }) => variable)]);
    value.dispose();
    return { output, grads, parameters };
  };

  const training = differentiate(true);
  const inference = differentiate(false);
  const read = async (tensor: tf.Tensor | undefined) => await tensor!.data();
  const parameter = (name: string) => training.parameters.all.find((entry) => entry.name.startsWith(name));
  const gradient = (name: string) => training.grads[parameter(name)!.variable.name];
  const result: Record<string, ArrayLike<number>> = {
    y_train: await read(training.output),
    y_eval: await read(inference.output),
    dx: await read(training.grads[x.name]),
    dx_eval: await read(inference.grads[x.name]),
    dgamma: await read(gradient("gamma")),
    dbeta: await read(gradient("beta")),
  };
  if (parameter("v1")) result.dv = await read(gradient("v1"));
  if (parameter("tau")) result.dtau = await read(gradient("tau"));
  if (parameter("moving_variance")) {
    result.new_running_var = await read(parameter("moving_variance")!.variable);
  }
  if (parameter("moving_mean")) result.new_running_mean = await read(parameter("moving_mean")!.variable);
  tf.dispose([dy, x, training.output, inference.output, training.grads, inference.grads]);
  training.parameters.dispose();
  inference.parameters.dispose();
  return result;
}
