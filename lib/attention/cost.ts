/** What self-attention costs over a sampling run, counted; and how long that might take on a device, estimated. */
import { requireSizes } from "./_sizes.ts";
import { type Layout, permuted } from "./layouts.ts";
import { keptElements, occupancy } from "./tiles.ts";
import type { Method } from "./methods/types.ts";
import type { Mask } from "./types.ts";

/** The self-attention of a Diffusion Transformer. */
export interface ModelShape {
  readonly name: string;
  readonly layers: number;
  readonly heads: number;
  /** Of one head. */
  readonly dim: number;
  /** Tokens in self-attention, text included where it takes part. */
  readonly tokens: number;
  /** Text tokens among them, which come first. */
  readonly text: number;
  /** Rows of a step: 2 with classifier-free guidance. */
  readonly batch: number;
  /** Whether blocks have cross-attention to text beside it. */
  readonly crossAttention: boolean;
}

const image = { text: 0, batch: 2, crossAttention: true } as const;
const video = { dim: 64, text: 226, batch: 2, crossAttention: false } as const;
const pixart = { layers: 28, heads: 16, dim: 72, ...image } as const;

/** Published models, from their configurations in diffusers. */
export const modelShapes: readonly ModelShape[] = [
  { name: "PixArt-512", ...pixart, tokens: 1024 },
  { name: "PixArt-1024", ...pixart, tokens: 4096 },
  { name: "PixArt-2K", ...pixart, tokens: 16384 },
  { name: "Hunyuan-DiT-1024", layers: 40, heads: 16, dim: 88, ...image, tokens: 4096 },
  { name: "CogVideoX-2B", layers: 30, heads: 30, ...video, tokens: 226 + 13 * 1350 },
  { name: "CogVideoX-5B", layers: 42, heads: 48, ...video, tokens: 226 + 13 * 1350 },
  { name: "CogVideoX1.5-5B", layers: 42, heads: 48, ...video, tokens: 226 + 11 * 4080 },
  { name: "DiT-XL/2-256", ...pixart, crossAttention: false, tokens: 256 },
  { name: "DiT-XL/2-512", ...pixart, crossAttention: false, tokens: 1024 },
];

/**
 * Of a published model.
 * @throws {RangeError} on another name
 */
export function modelShape(name: string): ModelShape {
  const found = modelShapes.find((model) => model.name === name);
  if (found) return found;
  const names = modelShapes.map((model) => model.name).join(", ");
  throw new RangeError(`Cannot give a model's shape as it must be one of ${names}: current name is ${name}`);
}

/** What some attention costs. Floating-point operations: a product and a sum are two; softmax is not counted. */
export interface Cost {
  /** `4 kept dim`: q k and p v over kept elements. */
  readonly flops: number;
  /** The same over all elements of touched tiles: what a kernel that skips tiles computes. */
  readonly tileFlops: number;
  /** The part of `tileFlops` in calls with a mask. */
  readonly sparseTileFlops: number;
  /** Tiles computed. */
  readonly tiles: number;
  /**
   * To and from memory at least: q, k and v read and the output written once by each call, what a method remembers written by steps that
   * see all keys and read by the others.
   */
  readonly bytes: number;
}

/** What to count. */
export interface RunSettings {
  readonly model: ModelShape;
  /** From `methods`: which calls each step makes, and what is remembered. */
  readonly method: Pick<Method, "label" | "calls" | "holds">;
  /** The mask of the method's sparse calls. */
  readonly mask: Mask;
  /** The layout that tokens are in, where the mask is not; tiles are counted in it. Default: as the mask has them. */
  readonly layout?: Layout;
  /** Denoising steps. */
  readonly steps: number;
  /** Queries and keys of a tile. Default 64 x 64. */
  readonly tile?: { readonly queries: number; readonly keys: number };
  /** Bytes of a number in memory. Default 2. */
  readonly numberBytes?: number;
}

/** What a run costs, all layers, heads and rows of the batch. */
export interface RunCost {
  readonly label: string;
  readonly steps: readonly Cost[];
  readonly run: Cost;
  /** The same run with full attention at each step. */
  readonly denseRun: Cost;
  /** run.flops / denseRun.flops. */
  readonly share: number;
  /** As `share`, of tileFlops. */
  readonly tileShare: number;
  /** What `share` would be if the mask kept nothing: the floor that the steps over all keys set. */
  readonly floor: number;
  /** The most that is remembered between two steps. */
  readonly heldBytes: number;
}

/** Floating-point operations of one call over all keys, in one layer and row of the batch: `4 tokens^2 dim heads`. */
export function denseFlops({ tokens, dim, heads }: ModelShape): number {
  return 4 * tokens * tokens * dim * heads;
}

/**
 * Counts a sampling run.
 *
 * ```ts
 * import { band, modelShape, publishedSchedule, rettention, runCost } from "@normlab/normlab/attention";
 * const mask = band(4096, 64);
 * const method = rettention({ mask, schedule: publishedSchedule("pixart") });
 * console.log(runCost({ model: modelShape("PixArt-1024"), method, mask, steps: 20 }).share); // 0.423
 * ```
 *
 * @throws {TypeError} on a mask of another number of tokens or heads
 * @throws {RangeError} on sizes that are not whole numbers
 */
export function runCost(
  { model, method, mask, layout, steps, tile = { queries: 64, keys: 64 }, numberBytes = 2 }: RunSettings,
): RunCost {
  requireSizes("count the cost of a run", { steps, numberBytes });
  const { layers, batch, heads, tokens, dim } = model;
  requireSizes("count the cost of a run", { layers, batch, heads, tokens, dim });
  const sparse = sparseCall(model, mask, layout, tile);
  const dense = denseCall(model, tile);
  const call = 4 * batch * heads * tokens * dim * numberBytes;
  const context = { layers, batch, heads, tokens, dim, steps };
  const held = (layer: number, done: number) =>
    numberBytes * Object.values(method.holds(context, layer, done))
      .reduce((sum, shape) => sum + shape.reduce((size, axis) => size * axis, 1), 0);
  let [denseCalls, heldBytes] = [0, 0];
  const costs = Array.from({ length: steps }, (_, step) => {
    let [total, after] = [nothing, 0];
    for (let layer = 0; layer < layers; layer++) {
      const calls = method.calls({ layer, step });
      const kept = held(layer, step + 1);
      after += kept;
      denseCalls += calls.dense * calls.share;
      total = add(total, dense, calls.dense * calls.share);
      total = add(total, sparse, calls.sparse * calls.share);
      const bytes = (calls.dense + calls.sparse) * calls.share * call +
        (calls.dense > 0 ? kept : held(layer, step));
      total = { ...total, bytes: total.bytes + bytes };
    }
    heldBytes = Math.max(heldBytes, after);
    return total;
  });
  const run = costs.reduce((sum, cost) => add(sum, cost, 1), nothing);
  const denseRun = add(nothing, { ...dense, bytes: call }, steps * layers);
  return {
    label: `${model.name}, ${method.label}`,
    steps: costs,
    run,
    denseRun,
    share: run.flops / denseRun.flops,
    tileShare: run.tileFlops / denseRun.tileFlops,
    floor: denseCalls / (steps * layers),
    heldBytes,
  };
}

const nothing: Cost = { flops: 0, tileFlops: 0, sparseTileFlops: 0, tiles: 0, bytes: 0 };

/** a + times b. */
function add(a: Cost, b: Cost, times: number): Cost {
  return {
    flops: a.flops + times * b.flops,
    tileFlops: a.tileFlops + times * b.tileFlops,
    sparseTileFlops: a.sparseTileFlops + times * b.sparseTileFlops,
    tiles: a.tiles + times * b.tiles,
    bytes: a.bytes + times * b.bytes,
  };
}

/** A call over all keys in one layer, but for bytes. */
function denseCall(model: ModelShape, { queries, keys }: { queries: number; keys: number }): Cost {
  const { batch, heads, tokens } = model;
  const flops = batch * denseFlops(model);
  const tiles = batch * heads * Math.ceil(tokens / queries) * Math.ceil(tokens / keys);
  return { flops, tileFlops: flops, sparseTileFlops: 0, tiles, bytes: 0 };
}

/** A call with a mask in one layer, but for bytes. */
function sparseCall(
  { name, batch, heads, tokens, dim }: ModelShape,
  mask: Mask,
  layout: Layout | undefined,
  { queries, keys }: { queries: number; keys: number },
): Cost {
  if (mask.queries !== tokens || mask.keys !== tokens) {
    throw new TypeError(
      `Cannot count the cost of a run as 'mask' must be of the ${tokens} tokens of ${name}: ` +
        `current mask is ${mask.label} of [${mask.queries}, ${mask.keys}]`,
    );
  }
  if (mask.heads !== null && mask.heads !== heads && mask.heads !== batch * heads) {
    throw new TypeError(
      `Cannot count the cost of a run as 'mask' must serve any head or have ${heads} or ${
        batch * heads
      } heads: ` +
        `current mask is ${mask.label} of ${mask.heads} heads`,
    );
  }
  const times = batch * heads / (mask.heads ?? 1);
  const tiles = times * occupancy(layout ? permuted(mask, layout) : mask, queries, keys).touched;
  const tileFlops = 4 * tiles * queries * keys * dim;
  return {
    flops: 4 * times * keptElements(mask) * dim,
    tileFlops,
    sparseTileFlops: tileFlops,
    tiles,
    bytes: 0,
  };
}

/**
 * What a shorter self-attention is worth to the whole model: `1 / (1 - a + a share)`, a being the part of self-attention in all floating-point
 * operations. Besides those, blocks have projections and an MLP of width 4, `12 width^2` parameters (14 with cross-attention) for each token.
 * Operations are not time: it is a bound where these run at one rate.
 */
export function wholeModel(
  model: ModelShape,
  share: number,
): { readonly attentionShare: number; readonly speedup: number } {
  const { layers, heads, dim, tokens, crossAttention } = model;
  const attention = layers * denseFlops(model);
  const linear = 2 * layers * (crossAttention ? 14 : 12) * (heads * dim) ** 2 * tokens;
  const attentionShare = attention / (attention + linear);
  return { attentionShare, speedup: 1 / (1 - attentionShare + attentionShare * share) };
}

/** What is known of a device. */
export interface Device {
  readonly name: string;
  /** Bytes per second to and from its memory. */
  readonly bandwidth: number;
  /** Dense attention, fp16, forward, in 1e12 operations per second, at 512, 1024, ... tokens. */
  readonly rates: readonly { readonly dim: number; readonly values: readonly number[] }[];
  readonly source: string;
}

/** FlashAttention-3 on an H100 SXM5, read off the chart of its repository. */
const flashAttention3 = [
  { dim: 64, values: [333, 392, 460, 476, 496, 497] },
  { dim: 128, values: [467, 565, 625, 638, 646, 648] },
] as const;

/** Devices to estimate for. */
export const devices: readonly Device[] = [
  {
    name: "H100",
    bandwidth: 3.35e12,
    rates: flashAttention3,
    source: "FlashAttention-3 on an H100 SXM5 (chart of its repository); 3.35 TB/s",
  },
  {
    name: "H200",
    bandwidth: 4.8e12,
    rates: flashAttention3,
    source:
      "rates of the H100 (the one H200 rate found, 487 at dim 64 and 32,768 tokens, is 5% below the H100's); 4.8 TB/s",
  },
];

/** A time that nobody measured. */
export interface Estimate {
  readonly kind: "estimate, not measured";
  readonly device: string;
  readonly seconds: number;
  readonly bound: "compute" | "memory";
  /** What was assumed. */
  readonly assumptions: readonly string[];
}

/**
 * Roofline: the longer of `tileFlops / rate` and `bytes / bandwidth`. Nobody measured this. Calls with a mask run at `sparseEfficiency` of the
 * dense rate (published block-sparse kernels reach .6 to .85); head sizes between 64 and 128 are padded to 96 or 128 and so lose that share.
 *
 * @throws {RangeError} on an unknown device, an efficiency out of (0, 1], or a head size above 128
 */
export function estimateTime(
  cost: Cost,
  model: ModelShape,
  device: string,
  { sparseEfficiency = 0.8 }: { sparseEfficiency?: number } = {},
): Estimate {
  const known = devices.find(({ name }) => name === device);
  if (!known) {
    throw new RangeError(
      `Cannot estimate a time as 'device' must be one of ${devices.map(({ name }) => name).join(", ")}: ` +
        `current device is ${device}`,
    );
  }
  if (!(sparseEfficiency > 0 && sparseEfficiency <= 1)) {
    throw new RangeError(
      `Cannot estimate a time as 'sparseEfficiency' must be above 0 and at most 1: ` +
        `current sparseEfficiency is ${sparseEfficiency}`,
    );
  }
  const { rate, padded } = rateOf(known, model);
  const compute = (cost.tileFlops - cost.sparseTileFlops + cost.sparseTileFlops / sparseEfficiency) / rate;
  const memory = cost.bytes / known.bandwidth;
  return {
    kind: "estimate, not measured",
    device,
    seconds: Math.max(compute, memory),
    bound: compute >= memory ? "compute" : "memory",
    assumptions: [
      known.source,
      `heads of ${model.dim} padded to ${padded}`,
      `calls with a mask at ${sparseEfficiency} of the dense rate, tile by tile`,
      "no launches, no permutation of tokens, no other work",
    ],
  };
}

/** Useful operations per second in dense attention. Between sizes of the table: straight lines. */
function rateOf({ rates }: Device, { dim, tokens }: ModelShape): { rate: number; padded: number } {
  const padded = [64, 96, 128].find((size) => dim <= size);
  if (padded === undefined) {
    throw new RangeError(`Cannot estimate a time as 'dim' must be at most 128: current dim is ${dim}`);
  }
  const [low, high] = rates.map(({ values }) => {
    const place = Math.min(Math.max(0, Math.log2(tokens / 512)), values.length - 1);
    const [before, after] = [values[Math.floor(place)]!, values[Math.ceil(place)]!];
    return before + (place - Math.floor(place)) * (after - before);
  }) as [number, number];
  return { rate: 1e12 * (low + (padded - 64) / 64 * (high - low)) * dim / padded, padded };
}
