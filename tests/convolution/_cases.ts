/** Convolutions to compute, with random operands. */
import assert from "node:assert/strict";
import type { ConvolutionProduct } from "../../lib/convolution/mod.ts";
import { stream } from "../../lib/tensor/streams.ts";
import { type Convolution, describe, elements, outputShape, type Pair } from "./_reference.ts";

export const PRODUCTS: readonly ConvolutionProduct[] = ["forward", "inputGradient", "filterGradient"];

/** Float32 sums of up to some thousand products of normal numbers: several times their rounding, relative to the largest value. */
export const TOLERANCE = 3e-6;

/** The same for Winograd convolutions, whose largest error is up to twice as large. */
export const WINOGRAD_TOLERANCE = 6e-6;

/** The largest difference relative to the largest value; infinite for NaN. */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(found.length, expected.length);
  let [worst, scale] = [0, 1];
  for (let at = 0; at < expected.length; at++) {
    const error = Math.abs(found[at]! - expected[at]!);
    worst = Number.isNaN(error) ? Infinity : Math.max(worst, error);
    scale = Math.max(scale, Math.abs(expected[at]!));
  }
  return worst / scale;
}

export function draw(convolution: Convolution): { x: Float32Array; w: Float32Array; dy: Float32Array } {
  const draws = stream("kernels").child(describe(convolution));
  return {
    x: draws.child("x").normal(elements(convolution.input)),
    w: draws.child("w").normal(elements(convolution.filter)),
    dy: draws.child("dy").normal(elements(outputShape(convolution))),
  };
}

/** Random geometries in which the filter fits. */
export function* geometries(
  name: string,
  count: number,
  change: Partial<Convolution>,
  channels: readonly number[],
): Generator<Convolution> {
  const draws = stream("geometries").child(name);
  for (let index = 0; index < count; index++) {
    const draw = draws.child(`${index}`);
    const pick = (what: string, most: number) => draw.child(what).integers(1, most)[0]!;
    const [c, d] = ["c", "d"].map((what) => channels[pick(what, channels.length)]!) as [number, number];
    const kernel: Pair = [1 + pick("kh", 5), 1 + pick("kw", 5)];
    const margins = ["top", "bottom", "left", "right"].map((what) => pick(what, 4));
    const dilated = pick("dilated", 3) === 0;
    const depthwise = change.depthwise ?? false;
    const reach = 18 * (change.strides?.[0] ?? 1);
    const convolution: Convolution = {
      depthwise,
      input: [1 + pick("n", 5), 1 + pick("h", reach), 1 + pick("w", reach), c],
      filter: [...(pick("one", 5) === 0 ? [1, 1] as Pair : kernel), c, depthwise ? 1 : d],
      strides: [1 + pick("sh", 3), 1 + pick("sw", 3)],
      dilations: dilated ? [1 + pick("dh", 3), 1 + pick("dw", 3)] : [1, 1],
      pad:
        (["same", "valid", [[0, 0], margins.slice(0, 2), margins.slice(2), [0, 0]]] as Convolution["pad"][])[
          pick("pad", 3)
        ]!,
      ...change.strides ? { strides: change.strides, dilations: [1, 1] } : {},
    };
    if (change.filter) convolution.filter = [3, 3, c, d];
    if (outputShape(convolution).every((size) => size > 0)) yield convolution;
  }
}
