/**
 * A contender of bench/convolutions.ts: `deno run -A bench/_convolution_server.ts (kit | stock)`.
 *
 * The kit on the wasm backend (NORMLAB_ONEDNN=off for its own kernels), or TensorFlow.js's wasm backend as it comes, which has no
 * gradients to filters. Requests as in bench/peers/convolutions.py.
 */
import * as tf from "@tensorflow/tfjs";
import process from "node:process";
import { stream, useBackend } from "../lib/tensor/mod.ts";
import { serve } from "./_contender.ts";

/** A convolution padded "same" of images [n, h, w, c] with a filter [kernel, kernel, c, outputs], or [kernel, kernel, c, 1]. */
export interface ConvolutionCase {
  readonly shape: readonly [number, number, number, number];
  readonly kernel: number;
  readonly outputs: number;
  readonly stride: number;
  readonly depthwise: boolean;
}

/** What can be asked for. `calls` are the first calls of a new process one by one: kernels are made, then optimised. */
export type ConvolutionRequest =
  | ConvolutionCase & {
    readonly action: "convolution" | "calls";
    readonly phase: "forward" | "forward+backward";
    readonly seconds: number;
    readonly most: number;
  }
  | { readonly action: "matMul"; readonly size: number; readonly seconds: number; readonly most: number };

const [mode] = process.argv.slice(2);
let version: string;
if (mode === "stock") {
  await import("@tensorflow/tfjs-backend-wasm");
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  await tf.setBackend("wasm");
  version = `TensorFlow.js ${tf.version.tfjs}`;
} else {
  version = (await useBackend("wasm")).library ?? "";
}

function times(call: () => void, { seconds, most }: ConvolutionRequest, warmups: number): number[] {
  for (let warmup = 0; warmup < warmups; warmup++) call();
  const milliseconds: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (milliseconds.length < 3 || (milliseconds.length < most && performance.now() < end)) {
    const start = performance.now();
    call();
    milliseconds.push(performance.now() - start);
  }
  return milliseconds;
}

function normal(name: string, shape: readonly number[]): tf.Tensor {
  return tf.tensor(stream(0).child(name).normal(shape.reduce((product, size) => product * size, 1)), [
    ...shape,
  ]);
}

await serve<ConvolutionRequest>((request) => {
  if (request.action === "matMul") {
    const matrix = normal("matrix", [request.size, request.size]);
    const milliseconds = times(() => tf.matMul(matrix, matrix).dispose(), request, 2);
    matrix.dispose();
    return { version, milliseconds };
  }
  const { shape, kernel, outputs, stride, depthwise, phase } = request;
  const channels = shape[3];
  const x = normal("x", shape);
  const w = normal("w", [kernel, kernel, channels, depthwise ? outputs / channels : outputs]);
  const apply = () =>
    depthwise
      ? tf.depthwiseConv2d(x as tf.Tensor4D, w as tf.Tensor4D, stride, "same")
      : tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, stride, "same");
  const output = tf.tidy(() => apply().shape);
  const dy = normal("dy", output);
  const call = phase === "forward" ? () => apply() : () => tf.engine().gradients(apply, [x, w], dy);
  const milliseconds = times(() => tf.tidy(() => void call()), request, request.action === "calls" ? 0 : 3);
  tf.dispose([x, w, dy]);
  return { version, milliseconds };
});
