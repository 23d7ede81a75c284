/** The named variables of a model: what is trained, what is decayed, what only follows the data. */
import * as tf from "@tensorflow/tfjs";

/**
 * `weight`: trained with weight decay. `norm`: trained without (gamma, beta, v0, v1 and biases, as the official EvoNorm code does).
 * `statistic`: a moving moment, never touched by the optimizer.
 */
export type ParameterKind = "weight" | "norm" | "statistic";

/** One variable of a model. */
export interface Parameter {
  readonly name: string;
  readonly kind: ParameterKind;
  readonly variable: tf.Variable;
}

/** Collects the parameters of a model under dotted names ("stage1.block0.norm1.gamma"). */
export class Parameters {
  readonly #all: Parameter[];
  readonly #prefix: string;

  constructor(all: Parameter[] = [], prefix = "") {
    this.#all = all;
    this.#prefix = prefix;
  }

  /** All parameters created so far in this collection and every scope of it, in order of creation. */
  get all(): readonly Parameter[] {
    return this.#all;
  }

  /** The same collection, names prefixed by `name`. */
  scope(name: string): Parameters {
    return new Parameters(this.#all, `${this.#prefix}${name}.`);
  }

  /**
   * Creates a variable of `shape` holding `values` (one number fills it).
   * @throws {RangeError} if the name is taken
   */
  create(name: string, shape: number[], values: Float32Array | number, kind: ParameterKind): tf.Variable {
    const full = `${this.#prefix}${name}`;
    if (this.#all.some((parameter) => parameter.name === full)) {
      throw new RangeError(`Cannot create a parameter as names must be unique: current name is "${full}"`);
    }
    const variable = tf.tidy(() =>
      tf.variable(
        typeof values === "number" ? tf.fill(shape, values) : tf.tensor(values, shape),
        kind !== "statistic",
      )
    );
    this.#all.push({ name: full, kind, variable });
    return variable;
  }

  /** Frees every variable. */
  dispose(): void {
    for (const { variable } of this.#all) variable.dispose();
  }
}
