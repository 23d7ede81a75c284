/** Stochastic gradient descent as image classifiers are trained with it. */
import * as tf from "@tensorflow/tfjs";
import { type MomentumSettings, momentumUpdate } from "../tensor/mod.ts";

/** A variable to train: weights are decayed, norm parameters are not, statistics are left alone. */
export interface Trainable {
  readonly name: string;
  readonly kind: "weight" | "norm" | "statistic";
  readonly variable: tf.Variable;
}

/** Settings of {@linkcode Sgd}. */
export interface SgdOptions {
  /** Weight of the old velocity. Default 0.9. */
  momentum?: number;
  /** Look ahead along the velocity (Nesterov). Default true. */
  nesterov?: boolean;
  /** L2 decay added to the gradient of weights, never of norm parameters. Default 1e-4. */
  weightDecay?: number;
}

/**
 * Variables updated as one: the vectors of a network are many and tiny, and on most backends an operation costs more than its
 * arithmetic on them. On wasm, where an update is one call, each is alone.
 */
interface Group {
  readonly variables: readonly tf.Variable[];
  readonly decayed: boolean;
  readonly velocity: tf.Variable;
}

/**
 * SGD with (Nesterov) momentum, weight decay on weights only:
 * g += decay * w;  v = momentum * v + g;  w -= rate * (nesterov ? g + momentum * v : v).
 * The same update as torch.optim.SGD (dampening 0).
 */
export class Sgd {
  readonly #groups: readonly Group[];
  readonly #momentum: number;
  readonly #nesterov: boolean;
  readonly #weightDecay: number;

  constructor(parameters: readonly Trainable[], options: SgdOptions = {}) {
    this.#momentum = options.momentum ?? 0.9;
    this.#nesterov = options.nesterov ?? true;
    this.#weightDecay = options.weightDecay ?? 1e-4;
    const trained = parameters.filter(({ kind }) => kind !== "statistic");
    const packed = tf.getBackend() === "wasm"
      ? []
      : trained.filter(({ kind, variable }) => kind === "norm" && variable.rank === 1);
    const single = trained.filter((parameter) => !packed.includes(parameter));
    this.#groups = [
      ...(packed.length > 0 ? [group(packed.map(({ variable }) => variable), false)] : []),
      ...single.map(({ kind, variable }) => group([variable], kind === "weight")),
    ];
  }

  /** The variables that gradients are taken for. */
  get variables(): tf.Variable[] {
    return this.#groups.flatMap(({ variables }) => variables);
  }

  /** One update at learning rate `rate`; `gradients` by the variable's TensorFlow.js name, as `tf.variableGrads` returns them. */
  step(gradients: Readonly<Record<string, tf.Tensor>>, rate: number): void {
    for (const { variables, decayed, velocity } of this.#groups) {
      const settings = {
        rate,
        momentum: this.#momentum,
        nesterov: this.#nesterov,
        decay: decayed ? this.#weightDecay : 0,
      };
      const slopes = variables.map((variable) => gradients[variable.name]!);
      if (variables.length === 1) {
        momentumUpdate(variables[0]!, velocity, slopes[0]!, settings);
      } else {
        updatePacked(variables, velocity, slopes, settings);
      }
    }
  }

  /** Frees the velocities. */
  dispose(): void {
    for (const { velocity } of this.#groups) velocity.dispose();
  }
}

function group(variables: tf.Variable[], decayed: boolean): Group {
  return { variables, decayed, velocity: tf.tidy(() => tf.variable(tf.zerosLike(join(variables)), false)) };
}

/** Updates several vectors end to end. */
function updatePacked(
  variables: readonly tf.Variable[],
  velocity: tf.Variable,
  gradients: readonly tf.Tensor[],
  settings: MomentumSettings,
): void {
  const packed = tf.tidy(() => tf.variable(join(variables), false));
  tf.tidy(() => {
    momentumUpdate(packed, velocity, join(gradients), settings);
    const parts = tf.split(packed, variables.map(({ size }) => size));
    variables.forEach((variable, index) => variable.assign(parts[index]!));
  });
  packed.dispose();
}

/** One tensor as it is; several vectors end to end. */
function join(tensors: readonly tf.Tensor[]): tf.Tensor {
  return tensors.length === 1 ? tensors[0]! : tf.concat(tensors as tf.Tensor1D[]);
}
