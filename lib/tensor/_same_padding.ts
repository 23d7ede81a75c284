/** Corrects the wasm backend's convolutions with padding "same" and a kernel smaller than the stride. */
import * as tf from "@tensorflow/tfjs";
import { replaceKernel } from "./_replace_kernel.ts";

const kernels: Record<string, { readonly depthwise: boolean }> = {
  Conv2D: { depthwise: false },
  FusedConv2D: { depthwise: false },
  DepthwiseConv2dNative: { depthwise: true },
  FusedDepthwiseConv2D: { depthwise: true },
};

const corrected = new WeakSet<tf.KernelFunc>();

/**
 * Replaces the kernels by ones that hand over such padding as numbers. Left to itself XNNPACK computes output
 * size * stride + kernel - input as an unsigned number, which along an axis where it is negative (6 pixels,
 * kernel 1, stride 2) moves the window: a [3, 1] convolution of stride 2 then gives wrong values without a
 * word.
 */
export function correctSamePadding(): void {
  for (const [name, { depthwise }] of Object.entries(kernels)) {
    const kernel = tf.getKernel(name, "wasm");
    if (!kernel || corrected.has(kernel.kernelFunc)) continue;
    const kernelFunc: tf.KernelFunc = (call) =>
      kernel.kernelFunc({ ...call, attrs: explicitPadding(call, depthwise) });
    corrected.add(kernelFunc);
    replaceKernel({ ...kernel, kernelFunc });
  }
}

type Call = Parameters<tf.KernelFunc>[0];

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
