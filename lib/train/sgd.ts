/** Stochastic gradient descent as image classifiers are trained with it. */
import * as tf from "@tensorflow/tfjs";

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

/** Variables updated as one: the vectors of a network are many and tiny, and each operation costs more than its arithmetic. */
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
    const packed = trained.filter(({ kind, variable }) => kind === "norm" && variable.rank === 1);
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
      tf.tidy(() => {
        const raw = join(variables.map((variable) => gradients[variable.name]!));
        const value = join(variables);
        const gradient = decayed && this.#weightDecay !== 0
          ? tf.add(raw, tf.mul(value, this.#weightDecay))
          : raw;
        velocity.assign(tf.add(tf.mul(velocity, this.#momentum), gradient));
        const direction = this.#nesterov ? tf.add(gradient, tf.mul(velocity, this.#momentum)) : velocity;
        const updated = tf.sub(value, tf.mul(direction, rate));
        const parts = variables.length === 1
          ? [updated]
          : tf.split(updated, variables.map(({ size }) => size));
        variables.forEach((variable, index) => variable.assign(parts[index]!));
      });
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

/** One tensor as it is; several vectors end to end. */
function join(tensors: readonly tf.Tensor[]): tf.Tensor {
  return tensors.length === 1 ? tensors[0]! : tf.concat(tensors as tf.Tensor1D[]);
}
