/** A layer graph evaluated operation by operation: the specification that every compiled form is tested against. */
import * as tf from "@tensorflow/tfjs";
import {
  active,
  type Aggregation,
  batchMoments,
  type GraphNode,
  initialNodes,
  type LayerGraph,
} from "../graph/mod.ts";
import { mean, meanSquare, variance } from "./_moments.ts";
import { add, divide, maximum, multiply, unaryPrimitives } from "./_primitives.ts";

/** What a graph reads: an image batch x [n, h, w, c] and two per-channel vectors v0, v1 [c]. */
export interface GraphInputs {
  x: tf.Tensor4D;
  v0: tf.Tensor1D;
  v1: tf.Tensor1D;
}

/** How a graph is evaluated. */
export interface InterpretOptions {
  /** Number of channel groups of the index set whc/g; must divide the channels. */
  groups: number;
  /** Added inside square roots; keeps denominators and logarithms off zero. Default 1e-5. */
  epsilon?: number;
  /**
   * Inference: the value [c] to use for each active node over the batch (index set bwh): a mean, a mean of squares or a biased
   * variance, by node index. Absent: training, where these moments are measured on the batch.
   */
  movingMoments?: ReadonlyMap<number, tf.Tensor1D>;
  /** Called in training with each batch moment [c] (mean, mean of squares or variance) as it is measured. */
  onBatchMoment?: (node: number, moment: tf.Tensor1D) => void;
}

/** Index of the first intermediate node; 0..3 are x, zero, v0, v1. */
const FIRST = initialNodes.length;

/** The active nodes that aggregate over the batch, which need a moving moment for inference. */
export function batchMomentNodes(graph: LayerGraph): { node: number; op: Aggregation }[] {
  return batchMoments(graph).map((node) => ({ node, op: graph.nodes[node - FIRST]!.op as Aggregation }));
}

/**
 * z = graph(x), [n, h, w, c], before the affine gamma * z + beta. Differentiable in x, v0 and v1, through the batch moments too.
 *
 * Conventions: `tests/golden/evonorm/README.md`, section 2 (biased moments; epsilon inside roots; safe Div, Log, Sqrt).
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { publishedLayer } from "@normlab/normlab/graph";
 * import { interpret } from "@normlab/normlab/layers";
 * import { useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const x = tf.ones<tf.Rank.R4>([2, 4, 4, 8]);
 * const z = interpret(publishedLayer("EvoNorm-S0").graph, { x, v0: tf.zeros([8]), v1: tf.ones([8]) }, { groups: 4 });
 * console.log(z.shape); // [2, 4, 4, 8]
 * ```
 * @throws {TypeError} if x, v0, v1 do not fit together
 * @throws {RangeError} if the groups do not divide the channels
 */
export function interpret(graph: LayerGraph, inputs: GraphInputs, options: InterpretOptions): tf.Tensor4D {
  checkInputs(inputs, options.groups);
  const { groups, epsilon = 1e-5, movingMoments, onBatchMoment } = options;
  const channels = inputs.x.shape[3];
  const perChannel = (t: tf.Tensor1D) => t.reshape([1, 1, 1, channels]) as tf.Tensor4D;
  const values = new Map<number, tf.Tensor4D>();
  const safe = new Set<number>();

  const evaluate = (node: GraphNode, index: number): tf.Tensor4D => {
    const [a, b] = node.inputs.map((input) => values.get(input)!);
    switch (node.op) {
      case "Add":
        return add(a!, b!);
      case "Mul":
        return multiply(a!, b!);
      case "Max":
        return maximum(a!, b!);
      case "Div":
        return divide(a!, b!, { epsilon, denominatorIsSafe: safe.has(node.inputs[1]!) });
      case "mean":
      case "rms":
      case "std": {
        const measure = { mean, rms: meanSquare, std: variance }[node.op];
        let moment: tf.Tensor4D;
        const moving = node.axes === "bwh" ? movingMoments?.get(index) : undefined;
        if (moving) {
          moment = perChannel(moving);
        } else {
          moment = measure(a!, node.axes!, groups);
          if (node.axes === "bwh") onBatchMoment?.(index, toChannels(moment, channels));
        }
        return node.op === "mean" ? moment : tf.sqrt(tf.add(moment, epsilon));
      }
      default:
        return unaryPrimitives[node.op](a!, epsilon);
    }
  };

  for (const index of active(graph)) {
    const node = graph.nodes[index - FIRST];
    if (node) {
      values.set(index, evaluate(node, index));
      if (isSafeDenominator(node, safe)) safe.add(index);
    } else {
      values.set(index, initialNode(index, inputs, perChannel));
    }
  }
  return values.get(FIRST + graph.nodes.length - 1)!;
}

function initialNode(
  index: number,
  { x, v0, v1 }: GraphInputs,
  perChannel: (t: tf.Tensor1D) => tf.Tensor4D,
): tf.Tensor4D {
  switch (index) {
    case 0:
      return x;
    case 1:
      return tf.zeros([1, 1, 1, 1]);
    case 2:
      return perChannel(v0);
    default:
      return perChannel(v1);
  }
}

/** Whether a node is at least sqrt(epsilon) whatever its inputs: roots of moments, and a maximum with one of them. */
function isSafeDenominator(node: GraphNode, safe: ReadonlySet<number>): boolean {
  if (node.op === "rms" || node.op === "std") return true;
  return node.op === "Max" && node.inputs.some((input) => safe.has(input));
}

/** A batch moment as a vector [c]: the moment of a value that all channels share is shared too. */
function toChannels(moment: tf.Tensor4D, channels: number): tf.Tensor1D {
  return moment.size === channels
    ? moment.reshape([channels])
    : tf.mul(tf.ones([channels]), moment.reshape([1])) as tf.Tensor1D;
}

function checkInputs({ x, v0, v1 }: GraphInputs, groups: number): void {
  if (x.rank !== 4) {
    throw new TypeError(
      `Cannot evaluate a layer graph as 'x' must be [n, h, w, c]: current shape is [${x.shape}]`,
    );
  }
  const channels = x.shape[3];
  for (const [name, vector] of Object.entries({ v0, v1 })) {
    if (vector.rank !== 1 || vector.size !== channels) {
      throw new TypeError(
        `Cannot evaluate a layer graph as '${name}' must be [c] = [${channels}]: current shape is [${vector.shape}]`,
      );
    }
  }
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
    throw new RangeError(
      `Cannot evaluate a layer graph as 'groups' must divide the ${channels} channels: current value is ${groups}`,
    );
  }
}
