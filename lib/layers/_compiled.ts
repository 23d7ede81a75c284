/**
 * Layers as fused kernels: `LayerGraph`, its gradient `LayerGraphGradient` and that one's `LayerGraphSecondGradient`, registered with
 * TensorFlow.js for the backends that the compiler writes code for. Room-private.
 */
import * as tf from "@tensorflow/tfjs";
import { momentName } from "../compile/mod.ts";
import {
  type CompiledLayer,
  type CompiledProgram,
  compileLayer,
  type RunProgram,
  secondGradient,
} from "./_compiled_programs.ts";
import { runWasm } from "./_compiled_wasm.ts";
import { runWebgpu } from "./_compiled_webgpu.ts";
import { interpretedSecondGradients } from "./_interpreted.ts";
import type { LayerInputs, LayerOptions, LayerParts } from "./_layer_inputs.ts";

const backends: ReadonlyMap<string, RunProgram> = new Map([["wasm", runWasm], ["webgpu", runWebgpu]]);

/** Whether layers are compiled on the backend in use. */
export function compiles(): boolean {
  return backends.has(tf.getBackend());
}

interface Attributes {
  readonly layer: CompiledLayer;
  readonly groups: number;
}

const forwardName = "LayerGraph",
  backwardName = "LayerGraphGradient",
  secondName = "LayerGraphSecondGradient";

/** The names of a layer's inputs beside x: the vectors, in inference the moving moments. */
function otherNames({ vectors, moments, mode }: CompiledLayer): string[] {
  return [...vectors, ...(mode === "inference" ? moments.map(({ node }) => `statistic${node}`) : [])];
}

function execute(name: string, inputs: readonly tf.Tensor[], attributes: Attributes): tf.Tensor[] {
  return tf.engine().runKernel(
    name,
    inputs as unknown as tf.NamedTensorMap,
    attributes as unknown as tf.NamedAttrMap,
  ) as tf.Tensor[];
}

/** y = post(gamma * graph(x) + beta), [n, h, w, c], by one kernel; its gradient is one kernel too. */
export function compiledLayer(
  parts: LayerParts,
  { x, vectors }: LayerInputs,
  { groups, epsilon, movingMoments, onBatchMoment }: LayerOptions,
): tf.Tensor4D {
  register();
  const layer = compileLayer(parts, movingMoments ? "inference" : "training", epsilon);
  const inputs = [
    x,
    ...layer.vectors.map((name) => vectors[name]!),
    ...(movingMoments ? layer.moments.map(({ node }) => movingMoments.get(node)!) : []),
  ];
  const [y, _saved, ...moments] = execute(forwardName, inputs, { layer, groups });
  layer.forward.schedule.program.vectors.forEach(({ name }, index) => {
    const { node } = layer.moments.find(({ node }) => momentName(node) === name)!;
    onBatchMoment?.(node, moments[index] as tf.Tensor1D);
  });
  return y as tf.Tensor4D;
}

function run(
  backend: string,
  program: CompiledProgram,
  names: readonly string[],
  inputs: tf.TensorInfo[],
  groups: number,
) {
  const imageShape = inputs[0]!.shape;
  const [samples, height, width, channels] = imageShape as [number, number, number, number];
  const shape = { samples, pixels: height * width, channels, groups };
  return backends.get(backend)!(
    program,
    shape,
    imageShape,
    new Map(names.map((name, index) => [name, inputs[index]!])),
  );
}

let registered = false;

/** Registers the kernels and their gradients with TensorFlow.js, once. */
function register(): void {
  if (registered) return;
  registered = true;
  for (const backendName of backends.keys()) {
    const kernel = (
      kernelName: string,
      kernelFunc: (inputs: tf.TensorInfo[], attributes: Attributes) => tf.TensorInfo[],
    ) =>
      tf.registerKernel({
        kernelName,
        backendName,
        kernelFunc: ({ inputs, attrs }) =>
          kernelFunc(inputs as unknown as tf.TensorInfo[], attrs as unknown as Attributes),
      });
    kernel(forwardName, (inputs, { layer, groups }) => {
      const names = ["x", ...otherNames(layer)];
      const { images, vectors, saved } = run(backendName, layer.forward, names, inputs, groups);
      return [images[0]!, saved, ...vectors];
    });
    kernel(backwardName, (inputs, { layer, groups }) => {
      const names = ["x", "dy", "saved", ...otherNames(layer)];
      const { images, vectors } = run(backendName, layer.backward, names, inputs, groups);
      return [...images, ...vectors];
    });
    kernel(secondName, (inputs, { layer, groups }) => {
      const upstream = ["x", ...layer.vectors].map((name) => `dd${name}`);
      const names = ["x", "dy", "saved", ...otherNames(layer), ...upstream];
      const { images, vectors } = run(backendName, secondGradient(layer), names, inputs, groups);
      return [...images, ...vectors];
    });
  }
  tf.registerGradient({
    kernelName: forwardName,
    saveAllInputs: true,
    outputsToSave: [false, true],
    gradFunc: (upstream, savedTensors, attrs) => {
      const attributes = attrs as unknown as Attributes;
      const saved = savedTensors.at(-1)!;
      const [x, ...rest] = savedTensors.slice(0, -1) as [tf.Tensor, ...tf.Tensor[]];
      const [dy] = upstream as tf.Tensor[];
      const gradients = execute(backwardName, [x, dy!, saved, ...rest], attributes);
      return byInput([...gradients, ...constants(rest, attributes)]);
    },
  });
  tf.registerGradient({
    kernelName: backwardName,
    saveAllInputs: true,
    gradFunc: (upstream, inputs, attrs) => {
      const attributes = attrs as unknown as Attributes;
      const [_x, _dy, saved, ...rest] = inputs as [tf.Tensor, tf.Tensor, tf.Tensor, ...tf.Tensor[]];
      const [toX, toDy, ...toVectors] = tf.engine().state.gradientDepth > 0
        ? secondGradientsAgain(attributes, inputs, upstream as tf.Tensor[])
        : execute(secondName, [...inputs, ...upstream as tf.Tensor[]], attributes);
      // What the forward pass has saved stands for what is computed of x and the vectors: the gradients go there.
      const toSaved = tf.zerosLike(saved);
      return byInput([toX!, toDy!, toSaved, ...toVectors, ...constants(rest, attributes)]);
    },
  });
}

/** Moving moments, at the end of the inputs, are constants: nothing flows to them. */
function constants(inputs: readonly tf.Tensor[], { layer }: Attributes): tf.Tensor[] {
  return inputs.slice(layer.vectors.length).map((moment) => tf.zerosLike(moment));
}

function byInput(gradients: readonly tf.Tensor[]): Record<string, () => tf.Tensor> {
  return Object.fromEntries(gradients.map((gradient, index) => [index, () => gradient]));
}

/** The gradients of the gradients by the interpreter, for when they are themselves being differentiated. */
function secondGradientsAgain(
  { layer, groups }: Attributes,
  inputs: readonly tf.Tensor[],
  upstream: readonly tf.Tensor[],
): tf.Tensor[] {
  const [x, dy, _saved, ...rest] = inputs as [tf.Tensor4D, tf.Tensor4D, tf.Tensor, ...tf.Tensor1D[]];
  const { parts, vectors: names, moments, mode, epsilon } = layer;
  const movingMoments = mode === "inference"
    ? new Map(moments.map(({ node }, index) => [node, rest[names.length + index]!]))
    : undefined;
  const vectors = Object.fromEntries(names.map((name, index) => [name, rest[index]!]));
  return interpretedSecondGradients(parts, { x, vectors }, names, dy, upstream, {
    groups,
    epsilon,
    ...(movingMoments && { movingMoments }),
  });
}
