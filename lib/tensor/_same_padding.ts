/** The wasm backend's forward convolutions: by an engine of the kit, or by TensorFlow.js with its padding "same" corrected. */
import * as tf from "@tensorflow/tfjs";
import { convolveByEngine } from "./_convolution_engines.ts";
import type { ConvolutionAttributes } from "./_convolution_window.ts";
import { replaceKernel } from "./_replace_kernel.ts";

/** Fused ones also add a bias and apply an activation, which the engines do not. */
const kernels: Record<string, { readonly depthwise: boolean; readonly fused: boolean }> = {
  Conv2D: { depthwise: false, fused: false },
  FusedConv2D: { depthwise: false, fused: true },
  DepthwiseConv2dNative: { depthwise: true, fused: false },
  FusedDepthwiseConv2D: { depthwise: true, fused: true },
};

const corrected = new WeakSet<tf.KernelFunc>();

/**
 * Replaces the kernels by ones that ask the engines, and hand over padding "same" as numbers where the kernel is smaller than the
 * stride. Left to itself XNNPACK computes output
 * size * stride + kernel - input as an unsigned number, which along an axis where it is negative (6 pixels,
 * kernel 1, stride 2) moves the window: a [3, 1] convolution of stride 2 then gives wrong values without a
 * word.
 */
export function replaceForwardKernels(): void {
  for (const [name, { depthwise, fused }] of Object.entries(kernels)) {
    const kernel = tf.getKernel(name, "wasm");
    if (!kernel || corrected.has(kernel.kernelFunc)) continue;
    const kernelFunc: tf.KernelFunc = (call) =>
      (fused ? null : byEngine(call, depthwise)) ??
        kernel.kernelFunc({ ...call, attrs: explicitPadding(call, depthwise) });
    corrected.add(kernelFunc);
    replaceKernel({ ...kernel, kernelFunc });
  }
}

type Call = Parameters<tf.KernelFunc>[0];

/** The convolution by an engine; null where none takes it, or TensorFlow.js's shape of the output is not the mathematical one. */
function byEngine({ inputs, attrs }: Call, depthwise: boolean): tf.TensorInfo | null {
  const attributes = attrs as unknown as ConvolutionAttributes;
  const [input, filter] = [inputs.x!, inputs.filter!];
  const [[kernelHeight, kernelWidth]] = [filter.shape as [number, number]];
  const alike = (pair: number | readonly [number, number] = 1) =>
    typeof pair === "number" || pair[0] === pair[1];
  const { pad, strides, dilations, dataFormat = "NHWC" } = attributes;
  if (dataFormat !== "NHWC") return null;
  if (typeof pad === "number" && !(kernelHeight === kernelWidth && alike(strides) && alike(dilations))) {
    return null;
  }
  return convolveByEngine("forward", { input, filter, output: null }, attributes, depthwise);
}

function explicitPadding({ inputs, attrs }: Call, depthwise: boolean): NonNullable<Call["attrs"]> {
  const { strides, pad, dilations, dataFormat = "NHWC" } = attrs as unknown as {
    strides: number | [number, number];
    pad: unknown;
    dilations: number | [number, number];
    dataFormat?: string;
  };
  if (pad !== "same" || dataFormat !== "NHWC") return attrs!;
  type Shape = [number, number, number, number];
  const [x, filter] = [inputs.x!.shape as Shape, inputs.filter!.shape as Shape];
  const found = tf.backend_util.computeConv2DInfo(x, filter, strides, dilations, pad, undefined, depthwise);
  const covers = found.effectiveFilterHeight >= found.strideHeight &&
    found.effectiveFilterWidth >= found.strideWidth;
  if (covers) return attrs!;
  const { top, bottom, left, right } = found.padInfo;
  return { ...attrs, pad: [[0, 0], [top, bottom], [left, right], [0, 0]] };
}
