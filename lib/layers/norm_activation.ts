/** A layer graph as a trainable normalization-activation layer: y = post(gamma * graph(x) + beta). */
import * as tf from "@tensorflow/tfjs";
import {
  active,
  bufferStart,
  canonicalHash,
  type LayerGraph,
  type PublishedLayer,
  publishedLayer,
} from "../graph/mod.ts";
import type { Shape4 } from "../tensor/mod.ts";
import { add, multiply, relu } from "./_primitives.ts";
import { fusedBatchNorm } from "./_fused_batch_norm.ts";
import { batchMomentNodes, interpret } from "./interpret.ts";
import type { Parameters } from "./parameters.ts";

/** A layer to build: the name of a published one, a graph, or a graph with a name, its post-affine part and its own epsilon. */
export type LayerSource = string | LayerGraph | PublishedLayer;

/** Settings shared by every normalization-activation layer of a model. */
export interface NormActivationOptions {
  /** Wanted number of channel groups; lowered by one until it divides the channels (official EvoNorm code). Default 32. */
  groups?: number;
  /** Weight of the old value in moving moments. Default 0.9. */
  decay?: number;
  /** Overrides the layer's epsilon (1e-5 unless published otherwise). */
  epsilon?: number;
}

/** The number of groups used for `channels`: `groups` lowered by one until it divides them. */
export function groupCount(channels: number, groups: number): number {
  let count = Math.min(groups, channels);
  while (channels % count !== 0) count--;
  return count;
}

/** Resolves a name or a bare graph to a layer with a name. */
export function resolveLayer(source: LayerSource): PublishedLayer {
  if (typeof source === "string") return publishedLayer(source);
  return "nodes" in source ? { name: canonicalHash(source), graph: source, source: "given graph" } : source;
}

const RELU: LayerGraph = { nodes: [{ op: "Max", inputs: [0, 1] }] };
const isRelu = (graph: LayerGraph) => canonicalHash(graph) === canonicalHash(RELU);
const isBatchNorm = (graph: LayerGraph) =>
  canonicalHash(graph) === canonicalHash(publishedLayer("BN-ReLU").graph);

/**
 * A normalization-activation layer on the current backend.
 *
 * Parameters, each [c]: gamma (1), beta (0), v0 (0), v1 (1), of which v0 and v1 exist only if the graph reads them, and tau (0) if
 * the post-affine part does; one moving moment for each active batch statistic (mean 0; mean of squares and variance 1).
 */
export class NormActivation {
  readonly layer: PublishedLayer;
  readonly channels: number;
  readonly groups: number;
  readonly decay: number;
  readonly epsilon: number;
  readonly #gamma: tf.Variable;
  readonly #beta: tf.Variable;
  readonly #vectors: { v0: tf.Variable | null; v1: tf.Variable | null; tau: tf.Variable | null };
  readonly #moments = new Map<number, tf.Variable>();
  readonly #relu: boolean;
  readonly #batchNorm: boolean;

  constructor(
    source: LayerSource,
    channels: number,
    parameters: Parameters,
    options: NormActivationOptions = {},
  ) {
    this.layer = resolveLayer(source);
    this.channels = channels;
    this.groups = groupCount(channels, options.groups ?? 32);
    this.decay = options.decay ?? 0.9;
    this.epsilon = options.epsilon ?? this.layer.epsilon ?? 1e-5;
    const { graph, post } = this.layer;
    const vector = (name: string, value: number) => parameters.create(name, [channels], value, "norm");
    this.#gamma = vector("gamma", 1);
    this.#beta = vector("beta", 0);
    this.#vectors = {
      v0: reads(graph, 2) ? vector("v0", 0) : null,
      v1: reads(graph, 3) ? vector("v1", 1) : null,
      tau: post && reads(post, 2) ? vector("tau", 0) : null,
    };
    for (const { node, op } of batchMomentNodes(graph)) {
      const name = `moving_${op === "mean" ? "mean" : op === "rms" ? "mean_square" : "variance"}_${node}`;
      this.#moments.set(node, parameters.create(name, [channels], bufferStart(op), "statistic"));
    }
    this.#relu = post !== undefined && isRelu(post);
    this.#batchNorm = isBatchNorm(graph);
  }

  /**
   * y [n, h, w, c] from x [n, h, w, c]. In training, batch moments are measured and the moving ones follow them
   * (new = decay * old + (1 - decay) * batch, biased); in inference the moving ones are used.
   * @throws {TypeError} if x is not [n, h, w, channels]
   */
  apply(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    if (x.rank !== 4 || x.shape[3] !== this.channels) {
      throw new TypeError(
        `Cannot apply the layer ${this.layer.name} as 'x' must be [n, h, w, ${this.channels}]: current shape is [${x.shape}]`,
      );
    }
    return this.#post(this.#affine(x, training));
  }

  #affine(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    const { graph } = this.layer;
    if (training && this.#batchNorm) {
      const fused = fusedBatchNorm(x, this.#gamma as tf.Tensor1D, this.#beta as tf.Tensor1D, this.epsilon);
      if (fused) {
        for (const { node, op } of batchMomentNodes(graph)) {
          this.#follow(node, op === "mean" ? fused.mean : fused.variance);
        }
        return fused.y;
      }
    }
    const zeros = () => tf.zeros<tf.Rank.R1>([this.channels]);
    const z = interpret(graph, {
      x,
      v0: (this.#vectors.v0 as tf.Tensor1D | null) ?? zeros(),
      v1: (this.#vectors.v1 as tf.Tensor1D | null) ?? zeros(),
    }, {
      groups: this.groups,
      epsilon: this.epsilon,
      ...(training ? { onBatchMoment: (node, moment) => this.#follow(node, moment) } : {
        movingMoments: this.#moments as ReadonlyMap<number, tf.Tensor> as ReadonlyMap<number, tf.Tensor1D>,
      }),
    });
    return affine(z, x.shape, this.#gamma as tf.Tensor1D, this.#beta as tf.Tensor1D);
  }

  #follow(node: number, moment: tf.Tensor1D): void {
    const moving = this.#moments.get(node)!;
    moving.assign(tf.add(tf.mul(moving, this.decay), tf.mul(moment, 1 - this.decay)));
  }

  #post(y: tf.Tensor4D): tf.Tensor4D {
    const { post } = this.layer;
    if (!post) return y;
    if (this.#relu) return relu(y);
    const zeros = tf.zeros<tf.Rank.R1>([this.channels]);
    const v0 = (this.#vectors.tau as tf.Tensor1D | null) ?? zeros;
    return interpret(post, { x: y, v0, v1: zeros }, { groups: this.groups, epsilon: this.epsilon });
  }
}

/** Whether an intermediate node on a path to the output reads the initial node `index`. */
function reads(graph: LayerGraph, index: number): boolean {
  return active(graph).includes(index);
}

/** gamma * z + beta at the full shape: z may be constant over some axes. */
function affine(z: tf.Tensor4D, shape: Shape4, gamma: tf.Tensor1D, beta: tf.Tensor1D): tf.Tensor4D {
  const perChannel = (t: tf.Tensor1D) => t.reshape([1, 1, 1, t.size]) as tf.Tensor4D;
  const y = add(multiply(z, perChannel(gamma)), perChannel(beta));
  return y.size === sizeOf(shape) ? y : add(y, tf.zeros(shape));
}

const sizeOf = (shape: Shape4): number => shape.reduce((product, size) => product * size, 1);
