/**
 * A whole layer and its gradient on the `tensorflow` backend, from the layer's graph and the graph of its derivative. Room-private.
 *
 * TensorFlow's operations on whole tensors are bound by memory: each reads and writes megabytes. Here the batch goes through them in
 * blocks that stay in the processor's cache, statistics are measured once for both passes, and factors that are constant over pixels are
 * combined before they meet a pixel. Nothing of the size of x is kept between the passes but x itself.
 */
import * as tf from "@tensorflow/tfjs";
import type { VectorName } from "../compile/mod.ts";
import { differentiable } from "../tensor/mod.ts";
import { currentDevice, type Device, type Handle } from "./_derived_device.ts";
import { Execution, type Sizes } from "./_derived_execute.ts";
import { type Plan, plan } from "./_derived_plan.ts";
import { type DerivedProgram, derivedProgram, type ProgramOptions } from "./_derived_program.ts";
import { interpretedGradients } from "./_interpreted.ts";
import type { LayerInputs, LayerOptions, LayerParts } from "./_layer_inputs.ts";

type Layer = LayerParts;

interface Compiled {
  readonly program: DerivedProgram;
  readonly vectors: readonly VectorName[];
  readonly forward: Plan;
  readonly backward: Plan;
}

/**
 * y = post(gamma * graph(x) + beta), [n, h, w, c]: what {@linkcode interpretLayer} computes, differentiable in x and the vectors.
 *
 * A second derivative goes through the interpreter: a gradient that is itself being recorded is that of `interpretLayer`.
 *
 * @throws {Error} if the backend is not `tensorflow`
 * @throws {TypeError} if x or a vector has another shape, or in inference the post graph has a moment over the batch
 * @throws {RangeError} if the groups do not divide the channels
 */
export function derivedLayer(layer: Layer, inputs: LayerInputs, options: LayerOptions): tf.Tensor4D {
  const device = currentDevice();
  check(inputs, options);
  const { x } = inputs;
  const { movingMoments, onBatchMoment, groups, epsilon } = options;
  const [samples, height, width, channels] = x.shape;
  const sizes: Sizes = { samples, pixels: height * width, channels, groups, epsilon };
  const mode = movingMoments ? "inference" : "training";
  const { program, vectors, forward, backward } = compiled(layer, {
    mode,
    epsilon,
    count: x.size / channels,
  });
  const read = vectors.filter((name) => inputs.vectors[name] !== undefined);
  const moving = new Map([...movingMoments ?? []].map(([node, moment]) => [`statistic${node}`, moment]));

  /** The tensors of a plan's inputs by name. */
  const give = (execution: Execution, { given }: Plan, tensors: ReadonlyMap<string, tf.Tensor>): void => {
    for (const index of given) {
      const { name } = program.values[index]!;
      if (name === undefined) continue;
      const tensor = tensors.get(name);
      const full = name === "x" || name === "dy";
      const shape = full ? execution.fullShape : [1, 1, channels];
      const handle = tensor === undefined
        ? device.broadcast(device.scalar(name === "gamma" || name === "v1" ? 1 : 0), shape)
        : device.reshape(device.handle(tensor), shape);
      execution.give(index, execution.own(handle));
    }
  };
  const named = (image: tf.Tensor, given: readonly tf.Tensor[]): Map<string, tf.Tensor> =>
    new Map<string, tf.Tensor>([
      ["x", image],
      ...read.map((name, k) => [name, given[k]!] as const),
      ...moving,
    ]);

  const moments = new Map<number, tf.Tensor1D>();
  const y = differentiable(
    [x, ...read.map((name) => inputs.vectors[name]!)],
    (save) =>
      evaluate(device, program, sizes, (execution) => {
        give(execution, forward, named(x, read.map((name) => inputs.vectors[name]!)));
        execution.run(forward);
        for (const [node, index] of onBatchMoment ? program.moments : []) {
          moments.set(node, tf.keep(vector(device, execution.result(index), sizes)));
        }
        const rows = program.saved.map((index) => device.tensor(execution.result(index)));
        save([x, ...read.map((name) => inputs.vectors[name]!), ...rows]);
        return device.tensor(execution.result(program.y), x.shape) as tf.Tensor4D;
      }),
    (dy, [image, ...rest]) => {
      const given = rest.slice(0, read.length), rows = rest.slice(read.length);
      if (isRecorded()) {
        const vectors = Object.fromEntries(read.map((name, k) => [name, given[k] as tf.Tensor1D]));
        return interpretedGradients(layer, { x: image as tf.Tensor4D, vectors }, read, dy, options);
      }
      return evaluate(device, program, sizes, (execution) => {
        give(execution, backward, named(image!, given).set("dy", dy));
        program.saved.forEach((index, k) => execution.give(index, device.handle(rows[k]!)));
        execution.run(backward);
        return [
          device.tensor(execution.result(program.dx), x.shape),
          ...read.map((name) => vector(device, execution.result(program.gradients.get(name)!), sizes)),
        ];
      });
    },
  );
  for (const [node, moment] of moments) {
    // A clone belongs to the caller's scope again.
    onBatchMoment!(node, moment.clone());
    moment.dispose();
  }
  return y;
}

function evaluate<T>(
  device: Device,
  program: DerivedProgram,
  sizes: Sizes,
  compute: (execution: Execution) => T,
): T {
  device.trim();
  const execution = new Execution(device, program.values, sizes);
  try {
    return compute(execution);
  } finally {
    execution.dispose();
  }
}

/** A row without batch as a tensor [c]. */
function vector(device: Device, row: Handle, { channels }: Sizes): tf.Tensor1D {
  const wide = device.broadcast(row, [1, 1, channels]);
  try {
    return device.tensor(wide, [channels]) as tf.Tensor1D;
  } finally {
    device.free(wide);
  }
}

/** Whether operations are being recorded for an outer gradient. */
function isRecorded(): boolean {
  return tf.engine().state.gradientDepth > 0;
}

/** Programs by layer, mode and size: a training run needs a handful, a search no more than that at a time. */
const cache = new Map<string, Compiled>();
const mostCompiled = 256;

function compiled(layer: Layer, options: ProgramOptions): Compiled {
  const key = JSON.stringify([layer.graph.nodes, layer.post?.nodes, options]);
  let found = cache.get(key);
  if (found === undefined) {
    const program = derivedProgram(layer, options);
    const { values, y, moments, saved, dx, gradients } = program;
    found = {
      program,
      vectors: [...gradients.keys()],
      forward: plan(values, [y, ...moments.values(), ...saved], []),
      backward: plan(values, [dx, ...gradients.values()], saved),
    };
    if (cache.size >= mostCompiled) cache.delete(cache.keys().next().value!);
    cache.set(key, found);
  }
  return found;
}

function check({ x, vectors }: LayerInputs, { groups }: LayerOptions): void {
  if (x.rank !== 4) {
    throw new TypeError(
      `Cannot evaluate a derived layer as 'x' must be [n, h, w, c]: current shape is [${x.shape}]`,
    );
  }
  const channels = x.shape[3];
  for (const [name, vector] of Object.entries(vectors)) {
    if (vector.rank !== 1 || vector.size !== channels) {
      throw new TypeError(
        `Cannot evaluate a derived layer as '${name}' must be [c] = [${channels}]: current shape is [${vector.shape}]`,
      );
    }
  }
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
    throw new RangeError(
      `Cannot evaluate a derived layer as 'groups' must divide the ${channels} channels: current value is ${groups}`,
    );
  }
}
