import assert from "node:assert/strict";
import {
  type ConvolutionGenerator,
  convolutionGenerators,
  type ConvolutionProduct,
  depthwiseConvolution,
  directConvolution,
  stridedWinogradConvolution,
  winogradConvolution,
} from "../../lib/convolution/mod.ts";
import { relaxedSimd } from "../../lib/wasm/mod.ts";
import { draw, geometries, PRODUCTS, relativeError, TOLERANCE, WINOGRAD_TOLERANCE } from "./_cases.ts";
import * as reference from "./_reference.ts";
import { type Convolution, describe, geometryOf, type Pair } from "./_reference.ts";

const [PAGES, PAGE] = [256, 65536];
const memory = new WebAssembly.Memory({ initial: PAGES });
const GUARD = 16;
const MARK = 777;

/**
 * The largest error of a product by the first of the generators that takes it, relative to the largest value; undefined if none does.
 * The result must fill its tensor, leave what lies around it alone, and not depend on what lay in the scratch.
 */
function errorOf(
  generators: readonly ConvolutionGenerator[],
  relaxed: boolean,
  product: ConvolutionProduct,
  convolution: Convolution,
): number | undefined {
  const geometry = geometryOf(convolution);
  const kernel = generators.values()
    .map((generate) => generate(product, geometry, { relaxed, pages: PAGES }))
    .find((made) => made !== null);
  if (kernel === undefined) return undefined;
  const { x, w, dy } = draw(convolution);
  const target = ({ forward: "output", inputGradient: "input", filterGradient: "filter" } as const)[product];
  const expected = {
    forward: () => reference.output(convolution, x, w),
    inputGradient: () => reference.inputGradient(convolution, dy, w),
    filterGradient: () => reference.filterGradient(convolution, x, dy),
  }[product]();
  const operands = { input: x, filter: w, output: dy, scratch: new Float32Array(kernel.scratchBytes / 4) };
  operands.scratch.fill(NaN);
  operands[target].fill(NaN);

  const sizes = Object.values(operands).map(({ length }) => length + 2 * GUARD);
  const bytes = 4 * sizes.reduce((sum, size) => sum + size, 0);
  const missing = Math.ceil((bytes - memory.buffer.byteLength) / PAGE);
  if (missing > 0) memory.grow(missing);
  const floats = new Float32Array(memory.buffer, 0, bytes / 4).fill(MARK);
  const places = {} as Record<keyof typeof operands, number>;
  let end = 0;
  for (const name of ["input", "filter", "output", "scratch"] as const) {
    places[name] = end + GUARD;
    floats.set(operands[name], places[name]);
    end += operands[name].length + 2 * GUARD;
  }
  const before = floats.slice();
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(kernel.bytes), { env: { memory } });
  (exports.run as (...addresses: number[]) => void)(
    4 * places.input,
    4 * places.filter,
    4 * places.output,
    4 * places.scratch,
  );
  const found = floats.slice(places[target], places[target] + expected.length);
  for (const name of [target, "scratch"] as const) {
    const [from, to] = [places[name], places[name] + operands[name].length];
    floats.set(before.subarray(from, to), from);
  }
  const outside = floats.findIndex((value, at) => !Object.is(value, before[at]));
  assert.equal(outside, -1, `${product} of ${describe(convolution)} writes outside`);
  return relativeError(found, expected);
}

const CHANNELS = [1, 3, 5, 17, 4, 8, 12, 7, 16, 22];

for (const relaxed of [true, false]) {
  const simd = relaxed ? "relaxed SIMD" : "plain SIMD";
  if (relaxed && !relaxedSimd()) {
    console.log(`skipped: this engine has no ${simd}`);
    continue;
  }
  for (const depthwise of [false, true]) {
    Deno.test(`${depthwise ? "depthwise" : "regular"} convolutions of any geometry, ${simd}`, () => {
      const generators = [depthwise ? depthwiseConvolution : directConvolution];
      let compared = 0;
      for (const convolution of geometries(`${depthwise}`, 150, { depthwise }, CHANNELS)) {
        for (const product of PRODUCTS) {
          const error = errorOf(generators, relaxed, product, convolution);
          assert.ok(error! <= TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
          compared++;
        }
      }
      assert.ok(compared > 200, `${compared}`);
    });
  }

  for (const [stride, generator] of [[1, winogradConvolution], [2, stridedWinogradConvolution]] as const) {
    Deno.test(`Winograd convolutions of stride ${stride}, ${simd}`, () => {
      const change: Partial<Convolution> = { strides: [stride, stride], filter: [3, 3, 0, 0] };
      let compared = 0;
      for (const convolution of geometries(`stride ${stride}`, 80, change, [8, 12, 16, 20, 36])) {
        for (const product of PRODUCTS) {
          const error = errorOf([generator], relaxed, product, convolution);
          if (error === undefined) continue;
          assert.ok(error <= WINOGRAD_TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
          compared++;
        }
      }
      assert.ok(compared > 60, `${compared}`);
    });
  }
}

/** Matrix products of more pixels than one strip, tiles of every height, channels beyond a block: what small images do not reach. */
const LARGE: readonly Convolution[] = [
  { input: [3, 13, 11, 24], filter: [1, 1, 24, 20] },
  { input: [2, 20, 33, 9], filter: [1, 1, 9, 13], strides: [2, 2] as Pair },
  { input: [5, 30, 31, 12], filter: [3, 3, 12, 10], strides: [2, 2] as Pair },
  { input: [1, 40, 40, 33], filter: [5, 3, 33, 18] },
  { input: [2, 33, 35, 20], filter: [3, 3, 20, 1], depthwise: true },
  { input: [2, 30, 31, 6], filter: [7, 7, 6, 1], depthwise: true, strides: [2, 2] as Pair },
].map((sizes) => ({
  depthwise: false,
  strides: [1, 1],
  dilations: [1, 1],
  pad: "same",
  ...sizes as Pick<Convolution, "input" | "filter">,
}));

Deno.test("larger convolutions", () => {
  for (const convolution of LARGE) {
    for (const product of PRODUCTS) {
      const error = errorOf(convolutionGenerators, relaxedSimd(), product, convolution);
      assert.ok(error! <= WINOGRAD_TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
    }
  }
});
