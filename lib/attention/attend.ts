/** The one attention operator of the kit. */
import * as tf from "@tensorflow/tfjs";
import { differentiable } from "../tensor/mod.ts";
import { checkAttend } from "./_check.ts";
import { type Kernel, kernels, mostDim } from "./_kernels.ts";
import { tidied } from "./_tidied.ts";
import { applyEpilogue, attendReference } from "./reference.ts";
import { attendTiles, attendTilesGradients, tilesTile } from "./tiled.ts";
import { tileList } from "./tiles.ts";
import type { Attended, AttendOptions, Implementation, Mask, TileList } from "./types.ts";

/**
 * Attention of queries to the keys that a mask keeps:
 * `O_i = sum_j exp(s_ij - LSE_i) v_j`, `s_ij = scale q_i k_j`, `LSE_i = ln sum_j exp(s_ij)`, sums over the kept keys j of query i.
 *
 * q [batch, heads, queries, dim], k and v [batch, heads, keys, dim], all float32. A query without keys has O = 0 and LSE = -inf.
 * What the mask drops is skipped by tiles: time and memory follow the touched tiles, and no implementation but `reference` holds all
 * scores at once.
 *
 * The output is differentiable with respect to q, k, v and the epilogue, whatever computed it: the gradients compute the scores anew
 * (Dao et al., arXiv 2205.14135). LSE has no gradient; asking for one is an error, except of `reference`.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { attend } from "@normlab/normlab/attention";
 * import { useBackend } from "@normlab/normlab/tensor";
 *
 * await useBackend("wasm");
 * const q = tf.tensor4d([1, 0, 0, 1], [1, 1, 2, 2]);
 * const { output, lse } = attend(q, q, q, { lse: true });
 * console.log(output.shape, lse!.dataSync()); // [1, 1, 2, 2], ln(1 + exp(1 / sqrt(2))) twice
 * ```
 *
 * @throws {TypeError} on tensors that are not float32 of these shapes, or a mask of other sizes
 * @throws {RangeError} on a scale that is not finite, an unknown implementation, or one that cannot run here
 */
export function attend(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  options: AttendOptions = {},
): Attended {
  const { dim } = checkAttend(q, k, v, options);
  const { mask, scale = 1 / Math.sqrt(dim), lse = false, epilogue } = options;
  const implementation = implementationFor(options.implementation ?? "auto", dim);
  if (implementation === "reference") return attendReference(q, k, v, options);
  const { tile, attend } = implementation === "tiles" ? batched : implementation;
  const tiles = mask ? tilesOf(mask, tile) : null;
  if (!isRecording()) return tidied(() => attend(q, k, v, { tiles, scale, lse, ...epilogue }));

  return tidied(() => {
    let sums!: tf.Tensor3D;
    const output = differentiable(
      [q, k, v],
      (save) => {
        const attended = attend(q, k, v, { tiles, scale, lse: true });
        sums = tf.keep(attended.lse!);
        save([q, k, v, attended.output, sums]);
        return attended.output;
      },
      (gradient, saved) => {
        const [q, k, v, output] = saved as tf.Tensor4D[] as [
          tf.Tensor4D,
          tf.Tensor4D,
          tf.Tensor4D,
          tf.Tensor4D,
        ];
        const attention = { q, k, v, output, lse: saved[4] as tf.Tensor3D };
        const tiles = mask ? tilesOf(mask, tilesTile) : null;
        return attendTilesGradients(attention, gradient, { tiles, scale });
      },
    );
    const result = {
      output: epilogue ? applyEpilogue(output, epilogue) : output,
      lse: lse ? withoutGradient(sums, [q, k, v]) : null,
    };
    sums.dispose();
    return result;
  });
}

const batched: Pick<Kernel, "tile" | "attend"> = { tile: tilesTile, attend: attendTiles };

/** The kit's own kernel, or one of the names that need none. */
function implementationFor(name: Implementation, dim: number): Kernel | "reference" | "tiles" {
  if (name === "reference" || name === "tiles") return name;
  const kernel = kernels[tf.getBackend()];
  if (kernel && dim <= mostDim) return kernel;
  if (name === "auto") return "tiles";
  throw new RangeError(
    kernel
      ? `Cannot attend as 'dim' must be at most ${mostDim} for implementation kernel: current dim is ${dim}`
      : `Cannot attend as the backend must be ${
        Object.keys(kernels).join(" or ")
      } for implementation kernel: ` +
        `current backend is ${tf.getBackend()}`,
  );
}

/** Whether a gradient is being taken of what runs now. */
function isRecording(): boolean {
  const { gradientDepth, kernelDepth } = tf.engine().state;
  return gradientDepth > 0 && kernelDepth === 0;
}

function withoutGradient(lse: tf.Tensor3D, inputs: tf.Tensor[]): tf.Tensor3D {
  return differentiable(inputs, () => lse.clone(), () => {
    throw new Error(
      "Cannot differentiate 'lse' of attention as its implementation must be reference: only the output has a gradient",
    );
  });
}

const lists = new WeakMap<Mask, Map<string, TileList>>();

/** The tile list of a mask, made once for each mask object and tile size. */
function tilesOf(mask: Mask, { queries, keys }: Kernel["tile"]): TileList {
  const known = lists.get(mask) ?? new Map<string, TileList>();
  lists.set(mask, known);
  const size = `${queries}x${keys}`;
  const tiles = known.get(size) ?? tileList(mask, queries, keys);
  known.set(size, tiles);
  return tiles;
}
