/** The stability test of EvoNorm's search: how far a network's gradients can be driven. */
import * as tf from "@tensorflow/tfjs";
import { differentiable, variableGradients } from "../tensor/mod.ts";
import { type Classifier, type LabelledBatch, upload } from "./classifier.ts";
import { crossEntropy } from "./cross_entropy.ts";

/** Settings of {@linkcode stabilityTest}. The paper states `steps` and `limit`, not the rate. */
export interface StabilityOptions {
  /** Most steps of ascent. Default 100, the paper's. */
  steps?: number;
  /**
   * What the parameters move by per step and unit of dn/dtheta. Default 0.1, the learning rate of the paper's proxy training. On the ResNet
   * anchors for a laptop the published layers stay below 1e6 in 100 such steps; ReLU and SiLU alone pass the limit in 2 and 4.
   */
  rate?: number;
  /** The norm above which a network is rejected. Default 1e8, the paper's. Float32 squares reach to 1e19. */
  limit?: number;
  signal?: AbortSignal;
}

/** What a stability test found. */
export interface StabilityResult {
  /** The norm of the loss gradient before each step and after the last; ends with the first above the limit. */
  readonly norms: readonly number[];
  /** The loss at the same parameters. */
  readonly losses: readonly number[];
  /** The index of the norm that is not at most the limit (NaN is not); null if all are. */
  readonly firstAboveLimit: number | null;
  readonly rejected: boolean;
  /** What the test cost, in seconds. */
  readonly seconds: number;
}

/**
 * What {@linkcode gradientNorm} measures; gradients in the order of the variables, zero where nothing depends on one. An alias, since
 * tf.tidy takes no interface for a container of tensors.
 */
export type GradientNorm = {
  /** n = ||dL/dtheta||, []. */
  norm: tf.Scalar;
  /** L, []. */
  loss: tf.Scalar;
  /** dL/dtheta. */
  gradients: tf.Tensor[];
  /** dn/dtheta: where the norm grows. */
  direction: tf.Tensor[];
};

/**
 * Climbs the norm of the loss gradient, n(theta) = ||dL/dtheta||, to see whether it can be driven beyond a limit:
 * theta <- theta + rate * dn/dtheta, by differentiating twice. A layer whose gradients explode somewhere near would fail in some network
 * or some training, so a search rejects it (Liu, Brock, Simonyan, Le 2020: the worst case, beside the quality test's average).
 *
 * `loss` computes L [] from the variables by operations that can be differentiated twice, and draws nothing at random. A norm of 0 has no
 * direction and ends the test. The variables are put back as they were, moving statistics too if they are among `restored`.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { useBackend } from "@normlab/normlab/tensor";
 * import { stabilityTest } from "@normlab/normlab/train";
 * await useBackend("wasm");
 * const w = tf.variable(tf.tensor1d([0.5, 2]));
 * const { norms, rejected } = await stabilityTest(() => tf.sum(tf.pow(w, 4)), [w], { steps: 50 });
 * console.log(rejected, norms.length); // true 4: the slope of a fourth power runs away
 * ```
 * @throws {RangeError} if an option is out of range
 */
export async function stabilityTest(
  loss: () => tf.Scalar,
  variables: readonly tf.Variable[],
  options: StabilityOptions & { restored?: readonly tf.Variable[] } = {},
): Promise<StabilityResult> {
  const { steps = 100, rate = 0.1, limit = 1e8, signal, restored = variables } = options;
  checkOptions(steps, rate, limit);
  const start = performance.now();
  const initial = restored.map((variable) => variable.clone());
  const norms: number[] = [];
  const losses: number[] = [];
  let firstAboveLimit: number | null = null;
  try {
    for (let step = 0; step <= steps; step++) {
      signal?.throwIfAborted();
      const last = step === steps;
      const ascent = gradientNorm(loss, variables, { direction: !last });
      try {
        const [norm] = await ascent.norm.data();
        norms.push(norm!);
        losses.push((await ascent.loss.data())[0]!);
        if (!(norm! <= limit)) firstAboveLimit = step;
        if (firstAboveLimit !== null || norm === 0) break;
        if (!last) climb(variables, ascent.direction, rate);
      } finally {
        tf.dispose(ascent);
      }
    }
  } finally {
    restored.forEach((variable, index) => variable.assign(initial[index]!));
    tf.dispose(initial);
  }
  return {
    norms,
    losses,
    firstAboveLimit,
    rejected: firstAboveLimit !== null,
    seconds: (performance.now() - start) / 1000,
  };
}

/**
 * The stability test of a classifier with mean cross-entropy in training mode, over all that it trains. Its parameters and moving
 * statistics are put back as they were. The images are the first `batchSize` of `batch`, by default 8: "one small batch", large enough for
 * batch statistics, small as differentiating twice keeps both passes in memory.
 *
 * @throws {RangeError} if an option is out of range, or the batch is smaller than `batchSize`
 */
export async function classifierStability(
  model: Classifier,
  batch: LabelledBatch,
  options: StabilityOptions & { batchSize?: number } = {},
): Promise<StabilityResult> {
  const { batchSize: size = 8 } = options;
  if (!(Number.isInteger(size) && size >= 1 && size <= batch.size)) {
    throw new RangeError(
      `Cannot test stability as 'batchSize' must be a whole number in [1, ${batch.size}]: current value is ${size}`,
    );
  }
  const pixels = batch.height * batch.width * batch.channels;
  const [images, labels] = upload({
    ...batch,
    size,
    images: batch.images.subarray(0, size * pixels),
    labels: batch.labels.subarray(0, size),
  });
  try {
    return await stabilityTest(
      () => crossEntropy(model.forward(images, true), labels),
      model.parameters.filter(({ kind }) => kind !== "statistic").map(({ variable }) => variable),
      { ...options, restored: model.parameters.map(({ variable }) => variable) },
    );
  } finally {
    tf.dispose([images, labels]);
  }
}

/**
 * The l2 norm over all variables of the gradient of `loss`, n = sqrt(sum (dL/dtheta)^2), and the gradient of that norm, dn/dtheta.
 * Without `direction` it is not computed, and the list of it is empty.
 */
export function gradientNorm(
  loss: () => tf.Scalar,
  variables: readonly tf.Variable[],
  { direction = true }: { direction?: boolean } = {},
): GradientNorm {
  return tf.tidy(() => {
    let inner!: { value: tf.Scalar; gradients: tf.Tensor[] };
    const norm = () => {
      inner = (direction ? recordedGradients : sweptGradients)(loss, variables);
      // What the function computes on the way would go with it.
      tf.keep(inner.value);
      for (const gradient of inner.gradients) tf.keep(gradient);
      return euclideanNorm(inner.gradients);
    };
    const outer = direction ? sweptGradients(norm, variables) : { value: norm(), gradients: [] };
    return { norm: outer.value, loss: inner.value, gradients: inner.gradients, direction: outer.gradients };
  });
}

/** The value of `f` and its gradients, for which TensorFlow.js keeps all that is recorded: inside of another gradient. */
function recordedGradients(f: () => tf.Scalar, variables: readonly tf.Variable[]) {
  // tf.variableGrads throws where the value depends on none of the variables.
  const { value, grads } = tf.engine().gradients(f, [...variables], undefined, true);
  return { value, gradients: variables.map((variable, index) => grads[index] ?? tf.zerosLike(variable)) };
}

/** The same, where nothing else is recorded: what was recorded goes as the gradients are computed. */
function sweptGradients(f: () => tf.Scalar, variables: readonly tf.Variable[]) {
  const { value, grads } = variableGradients(f, [...variables], { mayBeConstant: true });
  return { value, gradients: variables.map((variable) => grads[variable.name] ?? tf.zerosLike(variable)) };
}

/** n = sqrt(sum t^2) [] over all numbers of some tensors, with the gradient dn * t / n to each. */
function euclideanNorm(tensors: tf.Tensor[]): tf.Scalar {
  return differentiable(
    tensors,
    (save) => {
      const norm = tf.sqrt(tf.addN(tensors.map((tensor) => tf.sum(tf.square(tensor))))) as tf.Scalar;
      save([...tensors, norm]);
      return norm;
    },
    (dn, saved) => {
      const scale = tf.div(dn, saved.at(-1)!);
      return saved.slice(0, -1).map((tensor) => tf.mul(tensor, scale));
    },
  );
}

function climb(variables: readonly tf.Variable[], direction: readonly tf.Tensor[], rate: number): void {
  variables.forEach((variable, index) =>
    tf.tidy(() => variable.assign(tf.add(variable, tf.mul(direction[index]!, rate))))
  );
}

function checkOptions(steps: number, rate: number, limit: number): void {
  const check = (name: string, wanted: string, holds: boolean, value: number) => {
    if (!holds) {
      throw new RangeError(`Cannot test stability as '${name}' must be ${wanted}: current value is ${value}`);
    }
  };
  check("steps", "a whole number of at least 0", Number.isInteger(steps) && steps >= 0, steps);
  check("rate", "a finite number above 0", Number.isFinite(rate) && rate > 0, rate);
  // Norms are roots of sums of squares in float32: beyond this they are infinite.
  check("limit", "a number above 0 and at most 1e19", limit > 0 && limit <= 1e19, limit);
}
