/** The group `attention`: the operator, its statistics and what Re-ttention makes of them, for every mask. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  attend,
  type Attended,
  band,
  blockMask,
  elementMask,
  frameBand,
  type Implementation,
  keysPerRow,
  type Mask,
  shiftedBand,
  tileWindow,
} from "../../lib/attention/mod.ts";
import { readSafetensors, type SafetensorsTensor, toFloat32 } from "../../lib/tensor/mod.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

/** A mask of the index, with the parameters of its kind. */
type MaskEntry =
  & { readonly name: string; readonly kept: number }
  & (
    | { readonly kind: "band"; readonly half: number }
    | { readonly kind: "band_shifted"; readonly width: number }
    | { kind: "frame_band"; ctx: number; frames: number; frame_size: number; half: number }
    | {
      kind: "tile2d";
      height: number;
      width: number;
      tile_h: number;
      tile_w: number;
      radius_h: number;
      radius_w: number;
    }
    | { kind: "block"; block_q: number; block_k: number; per_head?: boolean }
    | { kind: "element" }
  );

interface Case {
  readonly file: string;
  readonly H: number;
  readonly N: number;
  readonly d: number;
  readonly masks?: readonly MaskEntry[];
}

/**
 * What the reference values' README suggests for float32: absolute on outputs, residuals and ratios, relative to 1 + |LSE| on the
 * log-sum-exp; ten times as much where logits of a hundred lose as many digits.
 */
const toleranceOf = ({ file }: Case): number => file.includes("large_logits") ? 1e-4 : 1e-5;

/** Compares every case and mask of `folder` on the current backend: compiled by the kit's kernel and by tiles, else the specification. */
export async function checkAttention(
  folder: string,
  { evaluation }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { cases }: { cases: Case[] } = JSON.parse(await readFile(join(folder, "index.json"), "utf8"));
  const comparisons: Comparison[] = [];
  const skipped: string[] = [];
  const wanted: Implementation[] = evaluation === "compiled" ? ["kernel", "tiles"] : ["reference"];
  for (const implementation of wanted) {
    if (implementation === "kernel" && !hasKernel()) {
      skipped.push(`implementation kernel: none for the backend ${tf.getBackend()}`);
      continue;
    }
    for (const one of cases) {
      const tensors = readSafetensors(await readFile(join(folder, "..", one.file)));
      comparisons.push(...await checkCase(one, tensors, implementation));
    }
  }
  return { comparisons, skipped };
}

function hasKernel(): boolean {
  const one = tf.zeros<tf.Rank.R4>([1, 1, 1, 1]);
  try {
    return tf.tidy(() => attend(one, one, one, { implementation: "kernel" }).output.size > 0);
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  } finally {
    one.dispose();
  }
}

async function checkCase(
  one: Case,
  tensors: Map<string, SafetensorsTensor>,
  implementation: Implementation,
): Promise<Comparison[]> {
  const tolerance = toleranceOf(one);
  const name = `${one.file.replace(/\.safetensors$/, "")}, ${implementation}`;
  const given = (part: string) => {
    const tensor = tensors.get(part);
    if (!tensor) throw new RangeError(`Cannot check ${one.file} as it must hold ${part}`);
    return { values: toFloat32(tensor), shape: tensor.shape };
  };
  const load = (part: string) => {
    const { values, shape } = given(part);
    return tf.tensor(values, shape);
  };
  const [q, k, v] = ["q", "k", "v"].map((part) => load(part) as tf.Tensor4D) as [
    tf.Tensor4D,
    tf.Tensor4D,
    tf.Tensor4D,
  ];
  const comparisons: Comparison[] = [];
  const check = async (part: string, measured: tf.Tensor) => {
    const { values, shape } = given(part);
    const found = await measured.data();
    const [left, right] = part.endsWith("LSE") ? relative(found, values) : [found, values];
    comparisons.push(compare(`${name}/${part.replace(".", "/")}`, left, right, shape, tolerance, 1));
    measured.dispose();
  };
  const checkBoth = async (label: string, { output, lse }: Attended) => {
    await check(`${label}.O`, output);
    await check(`${label}.LSE`, lse!);
  };
  await checkBoth("dense", attend(q, k, v, { implementation, lse: true }));
  for (const entry of one.masks ?? []) {
    const mask = maskOf(entry, one, (part) => given(`${entry.name}.${part}`).values);
    if (implementation !== "kernel") {
      const { values, shape } = given(`${entry.name}.row_nnz`);
      comparisons.push(compare(`${name}/${entry.name}/row_nnz`, keysPerRow(mask), values, shape, 0, 1));
    }
    await checkBoth(entry.name, attend(q, k, v, { mask, implementation, lse: true }));
    const { rho, residual } = statistics(q, k, v, mask, implementation);
    const { output } = attend(q, k, v, { mask, implementation, epilogue: { rho, residual } });
    const { values, shape } = given("dense.O");
    // A refreshed step gives the dense output again, in one pass.
    const again = compare(
      `${name}/${entry.name}/epilogue`,
      await output.data(),
      values,
      shape,
      tolerance,
      1,
    );
    comparisons.push(again);
    output.dispose();
    await check(`${entry.name}.rho`, rho);
    await check(`${entry.name}.R`, residual);
  }
  tf.dispose([q, k, v]);
  return comparisons;
}

/** rho = exp(LSE_sparse - LSE_full) and R = O_full - rho O_sparse. */
function statistics(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  mask: Mask,
  implementation: Implementation,
): { rho: tf.Tensor3D; residual: tf.Tensor4D } {
  return tf.tidy(() => {
    const full = attend(q, k, v, { implementation, lse: true });
    const sparse = attend(q, k, v, { mask, implementation, lse: true });
    const rho = tf.exp<tf.Tensor3D>(tf.sub(sparse.lse!, full.lse!));
    return { rho, residual: tf.sub(full.output, tf.mul(tf.expandDims(rho, -1), sparse.output)) };
  });
}

/** Both sides as shares of 1 + |reference|; infinities as they are. */
function relative(measured: ArrayLike<number>, reference: Float32Array): [Float64Array, Float64Array] {
  const share = (values: ArrayLike<number>) =>
    Float64Array.from(
      reference,
      (value, i) => Number.isFinite(value) ? values[i]! / (1 + Math.abs(value)) : values[i]!,
    );
  return [share(measured), share(reference)];
}

function maskOf(entry: MaskEntry, { N, H }: Case, given: (part: string) => Float32Array): Mask {
  switch (entry.kind) {
    case "band":
      return band(N, entry.half);
    case "band_shifted":
      return shiftedBand(N, entry.width);
    case "frame_band":
      return frameBand({
        frames: entry.frames,
        frameTokens: entry.frame_size,
        half: entry.half,
        text: entry.ctx,
      });
    case "tile2d":
      return tileWindow({
        height: entry.height,
        width: entry.width,
        tileHeight: entry.tile_h,
        tileWidth: entry.tile_w,
        radiusHeight: entry.radius_h,
        radiusWidth: entry.radius_w,
      });
    case "block":
      return blockMask({
        queries: N,
        keys: N,
        blockQueries: entry.block_q,
        blockKeys: entry.block_k,
        heads: entry.per_head ? H : null,
        blocks: Uint8Array.from(given("block_mask")),
      });
    case "element":
      return elementMask({ queries: N, keys: N, elements: Uint8Array.from(given("mask")) });
  }
}
