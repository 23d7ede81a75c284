/** Which engines compute the convolutions of the wasm backend, and the kernels that ask them. */
import type * as tf from "@tensorflow/tfjs";
import type { ConvolutionGeometry, ConvolutionProduct } from "../convolution/mod.ts";
import { embeddedEngine } from "./_convolution_embedded.ts";
import type { ConvolutionEngine, ConvolutionOperands } from "./_convolution_engine.ts";
import { type ConvolutionAttributes, convolutionAxes } from "./_convolution_window.ts";
import { onednnEngine, onednnProblem } from "./_onednn.ts";
import { wasmHeap } from "./wasm_heap.ts";

/** Geometries whose kernels are kept; the one used least recently goes first and is made again when needed. */
const MOST_PREPARED = 512;

type Prepared = ((operands: ConvolutionOperands) => void) | null;

let engines: readonly ConvolutionEngine[] | null = null;
const prepared = new Map<string, Prepared>();

/** oneDNN where it is set up, then the kit's own kernels. */
function defaultEngines(): ConvolutionEngine[] {
  return [...onednnProblem() === null ? [onednnEngine()] : [], embeddedEngine()];
}

/** The engines in use, first choice first. @throws {Error} oneDNN is set up and cannot be loaded. */
export function convolutionEngines(): readonly ConvolutionEngine[] {
  return engines ??= defaultEngines();
}

/** Takes these engines instead of the default ones (null): for tests and benchmarks. */
export function useConvolutionEngines(chosen: readonly ConvolutionEngine[] | null): void {
  engines = chosen;
  prepared.clear();
}

type Shape = readonly [number, number, number, number];

/** Tensors of a convolution; of the one that is computed only the shape. */
export interface ConvolutionTensors {
  readonly input: tf.TensorInfo | Shape;
  readonly filter: tf.TensorInfo | Shape;
  /** Null when it is computed: its shape follows from the others. */
  readonly output: tf.TensorInfo | null;
}

/** A product of a convolution by the first engine that takes it, or null if none does. */
export function convolveByEngine(
  product: ConvolutionProduct,
  tensors: ConvolutionTensors,
  attributes: ConvolutionAttributes,
  depthwise: boolean,
): tf.TensorInfo | null {
  const [inputShape, filterShape] = [shapeOf(tensors.input), shapeOf(tensors.filter)];
  const axes = convolutionAxes(inputShape, filterShape, attributes, depthwise);
  const geometry: ConvolutionGeometry = {
    kind: depthwise ? "depthwise" : "regular",
    batch: inputShape[0],
    axes,
    channels: inputShape[3],
    outputs: depthwise ? filterShape[2] * filterShape[3] : filterShape[3],
  };
  const outputShape: Shape = [geometry.batch, axes[0].output, axes[1].output, geometry.outputs];
  const given = [tensors.input, tensors.filter, tensors.output].filter((tensor) => isTensor(tensor));
  if (given.some(({ dtype }) => dtype !== "float32")) return null;
  if ([...inputShape, ...filterShape, ...outputShape].some((size) => size <= 0)) return null;

  const run = prepare(product, geometry);
  if (run === null) return null;
  const shapes = { forward: outputShape, inputGradient: inputShape, filterGradient: filterShape };
  const result = wasmHeap.output([...shapes[product]]);
  const address = (tensor: tf.TensorInfo | Shape | null) =>
    wasmHeap.address(isTensor(tensor) ? tensor : result);
  run({
    input: address(tensors.input),
    filter: address(tensors.filter),
    output: address(tensors.output),
  });
  return result;
}

function prepare(product: ConvolutionProduct, geometry: ConvolutionGeometry): Prepared {
  const key = JSON.stringify([product, geometry]);
  let found = prepared.get(key);
  if (found === undefined) {
    found = null;
    for (const engine of convolutionEngines()) {
      found = engine.prepare(product, geometry);
      if (found !== null) break;
    }
  }
  // Most recently used last.
  prepared.delete(key);
  prepared.set(key, found);
  if (prepared.size > MOST_PREPARED) prepared.delete(prepared.keys().next().value!);
  return found;
}

function isTensor(tensor: tf.TensorInfo | Shape | null): tensor is tf.TensorInfo {
  return tensor !== null && "dataId" in tensor;
}

function shapeOf(tensor: tf.TensorInfo | Shape): Shape {
  return isTensor(tensor) ? tensor.shape as unknown as Shape : tensor;
}
