/** The group `graphs`: random and published layer graphs, training and inference form, with all gradients. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type LayerGraph, validate } from "../../lib/graph/mod.ts";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { readSafetensors } from "../../lib/tensor/mod.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

interface SetFacts {
  finite_forward: boolean;
  /** Null where the output is not finite. */
  max_abs_y: number | null;
  well_conditioned: boolean;
  float32_error_y: number;
  float32_error_grad: number;
}

type InputSet = "generic" | "init";

interface ReferenceGraph extends LayerGraph, Record<InputSet, SetFacts> {
  id: number;
  source: string;
}

interface Reference {
  shape_nhwc: [number, number, number, number];
  groups: number;
  eps: number;
  momentum: number;
  graphs: ReferenceGraph[];
}

/**
 * How much farther than plain float32 PyTorch a backend may be from the float64 reference. A random graph amplifies the last bits of
 * each operation, and backends round exp, tanh and sums differently. The floor covers graphs that PyTorch rounds exactly.
 */
const FACTOR = 32;
const FLOOR = 1e-5;

const MAX_FLOAT32 = 3.4028234663852886e38;

/** Parameters by the reference's names. */
const vectors = ["v0", "v1", "gamma", "beta"] as const;

/** Compares every well-conditioned graph of `folder` on the current backend, and the finite flags of the others. */
export async function checkGraphs(
  folder: string,
  { evaluation, toInterpreter = false }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const reference: Reference = JSON.parse(await readFile(join(folder, "graphs.json"), "utf8"));
  const tensors = readSafetensors(await readFile(join(folder, "tensors.safetensors")));
  const comparisons: Comparison[] = [];
  let ill = 0;
  for (const set of ["generic", "init"] as const) {
    const all = (name: string) => tensors.get(`${set}/${name}`)!.data as Float32Array;
    for (const graph of reference.graphs) {
      const facts = graph[set];
      const name = `graphs/${set}/${graph.id}`;
      const layer = validate({ nodes: graph.nodes });
      const measured = await measure(layer, reference, all, evaluation);
      if (!facts.well_conditioned) {
        ill++;
        comparisons.push(compareFinite(name, measured.y!, facts));
        continue;
      }
      const interpreted = toInterpreter ? await measure(layer, reference, all, "interpreted") : null;
      for (const [kind, values] of Object.entries(measured)) {
        const stacked = all(kind);
        const expected = stacked.subarray(graph.id * values.length, (graph.id + 1) * values.length);
        const float32 = kind.startsWith("d") ? facts.float32_error_grad : facts.float32_error_y;
        const shape = values.length === reference.shape_nhwc[3] ? [values.length] : reference.shape_nhwc;
        const tolerance = FACTOR * float32 + FLOOR;
        comparisons.push(compare(`${name}/${kind}`, values, expected, shape, tolerance));
        if (interpreted) {
          const other = interpreted[kind]!;
          comparisons.push(compare(`${name}/${kind} to interpreted`, values, other, shape, tolerance));
        }
      }
    }
  }
  return {
    comparisons,
    skipped: [`values of ${ill} ill-conditioned graphs (their finite flags are compared)`],
  };
}

/** Where no value can be compared, whether the output is finite can: 0 for the same answer, infinite for another. */
function compareFinite(name: string, y: ArrayLike<number>, facts: SetFacts): Comparison {
  const finite = Array.prototype.every.call(y, Number.isFinite);
  const expected = facts.finite_forward && facts.max_abs_y! <= MAX_FLOAT32;
  const error = finite === expected ? 0 : Infinity;
  return { name: `${name}/finite`, error, tolerance: 0, worst: [], passed: error === 0 };
}

/** Output in training, then inference after that one training step, and the training gradients, on the reference inputs. */
async function measure(
  graph: LayerGraph,
  { shape_nhwc: shape, groups, eps, momentum }: Reference,
  input: (name: string) => Float32Array,
  evaluation: Evaluation["evaluation"],
): Promise<Record<string, ArrayLike<number>>> {
  const parameters = new Parameters();
  const options = { groups, decay: momentum, epsilon: eps, evaluation };
  const norm = new NormActivation(graph, shape[3], parameters, options);
  const variables = new Map(parameters.all.map(({ name, variable }) => [name, variable]));
  for (const name of vectors) tf.tidy(() => variables.get(name)?.assign(tf.tensor1d(input(name))));
  const x = tf.variable(tf.tensor4d(input("x"), shape));
  const dy = tf.tensor4d(input("dy"), shape);
  let y!: tf.Tensor;
  const trained = vectors.flatMap((name) => variables.get(name) ?? []);
  const { grads, value } = tf.variableGrads(() => {
    y = tf.keep(norm.apply(x, true));
    return tf.sum(tf.mul(y, dy)) as tf.Scalar;
  }, [x, ...trained]);
  const evaluated = tf.tidy(() => norm.apply(x, false));

  const result: Record<string, ArrayLike<number>> = {
    y: await y.data(),
    y_eval: await evaluated.data(),
    dx: await gradientOf(grads[x.name], x.size),
  };
  for (const name of vectors) {
    result[`d${name}`] = await gradientOf(grads[variables.get(name)?.name ?? ""], shape[3]);
  }
  tf.dispose([x, dy, y, value, evaluated, grads]);
  parameters.dispose();
  return result;
}

/** The gradient of a variable that the graph does not read is zero. */
async function gradientOf(gradient: tf.Tensor | undefined, size: number): Promise<ArrayLike<number>> {
  return gradient ? await gradient.data() : new Float32Array(size);
}
