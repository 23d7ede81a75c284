/**
 * Makes convolutions trainable where TensorFlow.js leaves gaps. Its wasm backend has no kernel for the
 * gradient of a convolution to its filter nor for any gradient of a depthwise convolution, and a very slow
 * one for the gradient to the input; on no backend does it differentiate dilated convolutions, or the
 * gradients to filters once more.
 */
import * as tf from "@tensorflow/tfjs";
import {
  depthwiseFilterGradient,
  depthwiseInputGradient,
  filterGradient,
  inputGradient,
} from "./_convolution_gradients.ts";
import { type ConvolutionAttributes, convolutionAxes } from "./_convolution_window.ts";
import { registerPoolGradients } from "./_pool_gradients.ts";
import { replaceKernel } from "./_replace_kernel.ts";
import { convolveByEngine } from "./_convolution_engines.ts";
import { replaceForwardKernels } from "./_same_padding.ts";

type Shape = [number, number, number, number];

/** The attributes of the gradient kernels: those of the convolution, and the shape of what the gradient is for. */
type GradientAttributes = ConvolutionAttributes & { inputShape: Shape; filterShape: Shape };

/** A kind of convolution: the name of its kernel and its gradients as compositions of other operations. */
interface Kind {
  readonly name: "Conv2D" | "DepthwiseConv2dNative";
  readonly depthwise: boolean;
  readonly inputGradient: typeof inputGradient;
  readonly filterGradient: typeof filterGradient;
}

const kinds: readonly Kind[] = [
  { name: "Conv2D", depthwise: false, inputGradient, filterGradient },
  {
    name: "DepthwiseConv2dNative",
    depthwise: true,
    inputGradient: depthwiseInputGradient,
    filterGradient: depthwiseFilterGradient,
  },
];

/**
 * Registers the kit's kernels of convolutions and their gradients on the wasm backend, which lacks most of the gradients and is slow
 * at the rest: by oneDNN where it is set up, else by kernels written in WebAssembly at run time. Also right ones for pooling and for
 * convolutions padded "same" with a kernel smaller than the stride, which it gets wrong, and for all backends the gradients of dilated convolutions and second derivatives.
 * {@linkcode useBackend} does so itself; calling it again changes nothing.
 *
 * Images must be NHWC. A gradient is that of TensorFlow's convolution with the same strides, padding and dilations,
 * whatever they are:
 * dx[n, u, v, c] = sum dy[n, i, j, d] w[a, b, c, d] and dw[a, b, c, d] = sum x[n, u, v, c] dy[n, i, j, d] over
 * u = stride i + dilation a - pad, v = stride j + dilation b - pad.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { useBackend } from "@normlab/normlab/tensor";
 *
 * await useBackend("wasm");
 * const x = tf.ones([1, 5, 5, 2]) as tf.Tensor4D;
 * const loss = (filter: tf.Tensor4D) => tf.sum(tf.conv2d(x, filter, 2, "same"));
 * const dw = tf.grad((filter) => loss(filter as tf.Tensor4D))(tf.ones([3, 3, 2, 4]));
 * console.log(dw.shape); // [3, 3, 2, 4]
 * ```
 */
export function registerConvolutionGradients(): void {
  for (const kernel of wasmKernels) replaceKernel(kernel);
  replaceForwardKernels();
  registerPoolGradients();
  for (const gradient of gradients) tf.registerGradient(gradient);
}

const wasmKernels: readonly tf.KernelConfig[] = kinds.flatMap((kind) => [
  wasmKernel(
    `${kind.name}BackpropInput`,
    ({ dy, filter }, attributes) =>
      convolveByEngine(
        "inputGradient",
        { input: attributes.inputShape, filter: filter!, output: dy! },
        attributes,
        kind.depthwise,
      ),
    ({ dy, filter }, attributes) =>
      composeInputGradient(kind, dy!, filter!, attributes.inputShape, attributes),
  ),
  wasmKernel(
    `${kind.name}BackpropFilter`,
    ({ x, dy }, attributes) =>
      convolveByEngine(
        "filterGradient",
        { input: x!, filter: attributes.filterShape, output: dy! },
        attributes,
        kind.depthwise,
      ),
    ({ x, dy }, attributes) => composeFilterGradient(kind, x!, dy!, attributes.filterShape, attributes),
  ),
]);

type Tensors = Record<string, tf.Tensor4D>;

/** A kernel computed by an engine, or where none takes it by a composition of other kernels. */
function wasmKernel(
  kernelName: string,
  byEngine: (inputs: Tensors, attributes: GradientAttributes) => tf.TensorInfo | null,
  compose: (inputs: Tensors, attributes: GradientAttributes) => tf.Tensor4D,
): tf.KernelConfig {
  const kernelFunc: tf.KernelFunc = ({ inputs, attrs, backend }) => {
    const tensors = inputs as unknown as Tensors;
    const attributes = attrs as unknown as GradientAttributes;
    const computed = byEngine(tensors, attributes);
    if (computed !== null) return computed;
    const result = tf.tidy(() => compose(tensors, attributes));
    // The engine makes a tensor of its own of the data that a kernel returns: keep them while letting go of this one.
    const { dataId, shape, dtype } = result;
    (backend as tf.KernelBackend).incRef(dataId);
    result.dispose();
    return { dataId, shape, dtype };
  };
  return { kernelName, backendName: "wasm", kernelFunc };
}

/**
 * The sum of dy * convolution(x, filter) is linear in each of x, filter and dy, so that its three derivatives
 * (the convolution and the gradients to its input and to its filter) are derivatives of each other to any
 * order.
 */
const gradients: readonly tf.GradConfig[] = kinds.flatMap((kind) => [
  gradientOf(kind.name, ["x", "filter"], ([x, filter], upstream, attributes) => ({
    x: () => toInput(kind, upstream, filter, x.shape, attributes),
    filter: () => toFilter(kind, x, upstream, filter.shape, attributes),
  })),
  gradientOf(`${kind.name}BackpropInput`, ["dy", "filter"], ([dy, filter], upstream, attributes) => ({
    dy: () => forward(kind, upstream, filter, attributes),
    filter: () => toFilter(kind, upstream, dy, filter.shape, attributes),
  })),
  gradientOf(`${kind.name}BackpropFilter`, ["x", "dy"], ([x, dy], upstream, attributes) => ({
    x: () => toInput(kind, dy, upstream, x.shape, attributes),
    dy: () => forward(kind, x, upstream, attributes),
  })),
]);

function gradientOf(
  kernelName: string,
  inputsToSave: [string, string],
  derive: (
    saved: [tf.Tensor4D, tf.Tensor4D],
    upstream: tf.Tensor4D,
    attributes: ConvolutionAttributes,
  ) => Record<string, () => tf.Tensor>,
): tf.GradConfig {
  return {
    kernelName,
    inputsToSave,
    gradFunc: (upstream, saved, attributes) =>
      derive(
        saved as [tf.Tensor4D, tf.Tensor4D],
        upstream as tf.Tensor4D,
        attributes as unknown as ConvolutionAttributes,
      ),
  };
}

function forward(
  kind: Kind,
  x: tf.Tensor4D,
  filter: tf.Tensor4D,
  attributes: ConvolutionAttributes,
): tf.Tensor4D {
  return runKernel(kind.name, { x, filter }, attributes);
}

function toInput(
  kind: Kind,
  dy: tf.Tensor4D,
  filter: tf.Tensor4D,
  inputShape: Shape,
  attributes: ConvolutionAttributes,
): tf.Tensor4D {
  return needsComposition(attributes)
    ? composeInputGradient(kind, dy, filter, inputShape, attributes)
    : runKernel(`${kind.name}BackpropInput`, { dy, filter }, { ...attributes, inputShape });
}

function toFilter(
  kind: Kind,
  x: tf.Tensor4D,
  dy: tf.Tensor4D,
  filterShape: Shape,
  attributes: ConvolutionAttributes,
): tf.Tensor4D {
  return needsComposition(attributes) || breaksOneDnn(filterShape, attributes)
    ? composeFilterGradient(kind, x, dy, filterShape, attributes)
    : runKernel(`${kind.name}BackpropFilter`, { x, dy }, { ...attributes, filterShape });
}

/**
 * What the gradient kernels of TensorFlow.js do not take: dilations, and on `tensorflow` padding by numbers. Those of the wasm
 * backend are the kit's and take all.
 */
function needsComposition({ dilations = 1, pad }: ConvolutionAttributes): boolean {
  if (tf.getBackend() === "wasm") return false;
  return [dilations].flat().some((dilation) => dilation > 1) ||
    (typeof pad !== "string" && tf.getBackend() === "tensorflow");
}

/**
 * oneDNN (in TensorFlow 2.21) writes beyond its memory in the filter gradient of a strided 1 x 1 convolution
 * whose input channels are no multiple of its vectors.
 */
function breaksOneDnn([height, width]: Shape, { strides }: ConvolutionAttributes): boolean {
  return tf.getBackend() === "tensorflow" && height * width === 1 &&
    [strides].flat().some((stride) => stride > 1);
}

function composeInputGradient(
  kind: Kind,
  dy: tf.Tensor4D,
  filter: tf.Tensor4D,
  inputShape: Shape,
  attributes: ConvolutionAttributes,
): tf.Tensor4D {
  return kind.inputGradient(
    dy,
    filter,
    convolutionAxes(inputShape, filter.shape, attributes, kind.depthwise),
  );
}

function composeFilterGradient(
  kind: Kind,
  x: tf.Tensor4D,
  dy: tf.Tensor4D,
  filterShape: Shape,
  attributes: ConvolutionAttributes,
): tf.Tensor4D {
  return kind.filterGradient(x, dy, convolutionAxes(x.shape, filterShape, attributes, kind.depthwise));
}

/** Runs a kernel; attributes of a gradient kernel may lack the dilations, which the forward kernels ask for. */
function runKernel(name: string, inputs: Record<string, tf.Tensor>, attributes: object): tf.Tensor4D {
  return tf.engine().runKernel(
    name,
    inputs as tf.NamedTensorMap,
    { dilations: [1, 1], ...attributes } as tf.NamedAttrMap,
  ) as tf.Tensor4D;
}
