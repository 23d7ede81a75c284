/**
 * Layers as fused kernels: `LayerGraph` and `LayerGraphGradient`, registered with TensorFlow.js for the backends that
 * the compiler writes code for. Room-private.
 */
import * as tf from "@tensorflow/tfjs";
import { momentName } from "../compile/mod.ts";
import {
  type CompiledLayer,
  type CompiledProgram,
  compileLayer,
  type RunProgram,
} from "./_compiled_programs.ts";
import { runWasm } from "./_compiled_wasm.ts";
import { runWebgpu } from "./_compiled_webgpu.ts";
import { interpretedGradients } from "./_interpreted.ts";
import type { LayerInputs, LayerOptions, LayerParts, LayerVectors } from "./_layer_inputs.ts";

const backends: ReadonlyMap<string, RunProgram> = new Map([["wasm", runWasm], ["webgpu", runWebgpu]]);

/** Whether layers are compiled on the backend in use. */
export function compiles(): boolean {
  return backends.has(tf.getBackend());
}

interface Attributes {
  readonly layer: CompiledLayer;
  readonly groups: number;
}

const forwardName = "LayerGraph", backwardName = "LayerGraphGradient";

/** The names of a forward kernel's inputs: x, the vectors, in inference the moving moments. */
function inputNames({ vectors, moments, mode }: CompiledLayer): string[] {
  return ["x", ...vectors, ...(mode === "inference" ? moments.map(({ node }) => `statistic${node}`) : [])];
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
  const [y, _saved, ...moments] = tf.engine().runKernel(
    forwardName,
    inputs as unknown as tf.NamedTensorMap,
    { layer, groups } as unknown as tf.NamedAttrMap,
  ) as tf.Tensor[];
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
    tf.registerKernel({
      kernelName: forwardName,
      backendName,
      kernelFunc: ({ inputs, attrs }) => {
        const { layer, groups } = attrs as unknown as Attributes;
        const list = inputs as unknown as tf.TensorInfo[];
        const { images, vectors, saved } = run(backendName, layer.forward, inputNames(layer), list, groups);
        return [images[0]!, saved, ...vectors];
      },
    });
    tf.registerKernel({
      kernelName: backwardName,
      backendName,
      kernelFunc: ({ inputs, attrs }) => {
        const { layer, groups } = attrs as unknown as Attributes;
        const [x, dy, saved, ...rest] = inputs as unknown as tf.TensorInfo[];
        const names = ["x", "dy", "saved", ...inputNames(layer).slice(1)];
        const { images, vectors } = run(
          backendName,
          layer.backward,
          names,
          [x!, dy!, saved!, ...rest],
          groups,
        );
        return [images[0]!, ...vectors];
      },
    });
  }
  tf.registerGradient({
    kernelName: forwardName,
    saveAllInputs: true,
    outputsToSave: [false, true],
    gradFunc: (dy, savedTensors, attrs) => {
      const { layer } = attrs as unknown as Attributes;
      const saved = savedTensors.at(-1)!;
      const [x, ...rest] = savedTensors.slice(0, -1) as [tf.Tensor4D, ...tf.Tensor1D[]];
      const upstream = (dy as tf.Tensor[])[0]!;
      const gradients = tf.engine().state.gradientDepth > 0
        ? gradientsAgain(attrs as unknown as Attributes, [x, ...rest], upstream)
        : tf.engine().runKernel(
          backwardName,
          [x, upstream, saved, ...rest] as unknown as tf.NamedTensorMap,
          attrs,
        ) as tf.Tensor[];
      // Moving moments are constants: nothing flows to them.
      const statistics = rest.slice(layer.vectors.length).map((moment) => tf.zerosLike(moment));
      return Object.fromEntries(
        [...gradients, ...statistics].map((gradient, index) => [index, () => gradient]),
      );
    },
  });
}

/** The gradients by the interpreter, for when the backward pass is itself being differentiated. */
function gradientsAgain(
  { layer, groups }: Attributes,
  [x, ...rest]: readonly [tf.Tensor4D, ...tf.Tensor1D[]],
  dy: tf.Tensor,
): tf.Tensor[] {
  const movingMoments = layer.mode === "inference"
    ? new Map(layer.moments.map(({ node }, index) => [node, rest[layer.vectors.length + index]!]))
    : undefined;
  return interpretedGradients(layer.parts, { x, vectors: named(layer, rest) }, layer.vectors, dy, {
    groups,
    epsilon: layer.epsilon,
    ...(movingMoments && { movingMoments }),
  });
}

function named({ vectors }: CompiledLayer, values: tf.Tensor[]): LayerVectors {
  return Object.fromEntries(vectors.map((name, index) => [name, values[index] as tf.Tensor1D]));
}
