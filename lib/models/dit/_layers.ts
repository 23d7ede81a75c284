/**
 * The layers that diffusion transformers are made of. Weights come by name from a {@linkcode Scope}. Each frees what it needs in between:
 * at the size of published models that is most of what a pass takes.
 */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../../attention/mod.ts";
import type { EmbeddingTable } from "./embeddings.ts";
import type { Weights } from "./types.ts";

/** Weights below a prefix. */
export class Scope {
  readonly #weights: Weights;
  readonly #prefix: string;

  constructor(weights: Weights, prefix = "") {
    this.#weights = weights;
    this.#prefix = prefix;
  }

  in(name: string): Scope {
    return new Scope(this.#weights, `${this.#prefix}${name}.`);
  }

  get<T extends tf.Tensor = tf.Tensor>(name: string): T {
    const tensor = this.find<T>(name);
    if (tensor) return tensor;
    throw new Error(`Cannot run a model as its weights must have '${this.#prefix}${name}': it is not there`);
  }

  find<T extends tf.Tensor = tf.Tensor>(name: string): T | undefined {
    return this.#weights.get(this.#prefix + name) as T | undefined;
  }
}

/** `x W + b` on the last axis: [..., in] -> [..., out]. */
export function linear<T extends tf.Tensor>(scope: Scope, name: string, x: T): T {
  const b = scope.get<tf.Tensor2D>(`${name}.weight`);
  const bias = scope.find<tf.Tensor1D>(`${name}.bias`);
  const [input, output] = b.shape;
  const a = tf.reshape<tf.Rank.R2>(x, [-1, input]);
  const product = bias ? tf.fused.matMul({ a, b, bias }) : tf.matMul(a, b);
  return tf.reshape(product, [...x.shape.slice(0, -1), output]) as T;
}

/** Over the last axis, with biased variance; `name` with weight and bias where there are such. */
export function layerNorm<T extends tf.Tensor>(x: T, epsilon: number, scope?: Scope, name?: string): T {
  return tf.tidy(() => {
    const centered = tf.sub(x, tf.mean(x, -1, true));
    const variance = tf.tidy(() => tf.mean(tf.square(centered), -1, true));
    const normed = tf.mul(centered, tf.rsqrt(tf.add(variance, epsilon)));
    const weight = scope?.find(`${name}.weight`);
    const bias = scope?.find(`${name}.bias`);
    const scaled = weight ? tf.mul(normed, weight) : normed;
    return (bias ? tf.add(scaled, bias) : scaled) as T;
  });
}

/** `x sigmoid(x)` */
export function silu<T extends tf.Tensor>(x: T): T {
  return tf.tidy(() => tf.mul<T>(x, tf.sigmoid(x)));
}

/** GELU by its tanh form: `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`. */
export function gelu<T extends tf.Tensor>(x: T): T {
  const factor = 2 * Math.sqrt(2 / Math.PI);
  return tf.tidy(() => {
    const slope = tf.tidy(() => tf.add(tf.mul(tf.square(x), factor * 0.044715), factor));
    const share = tf.tidy(() => tf.sigmoid(tf.mul(x, slope)));
    return tf.mul<T>(x, share);
  });
}

/** Two linear layers `linear_1`, `linear_2` with an activation between them. */
export function mlp<T extends tf.Tensor>(scope: Scope, x: T, activation: (x: T) => T = silu): T {
  return linear(scope, "linear_2", activation(linear(scope, "linear_1", x)));
}

/** The feed-forward of diffusers with GELU: [..., width] -> [..., width]. */
export function feedForward<T extends tf.Tensor>(scope: Scope, x: T): T {
  return tf.tidy(() => linear(scope, "net.2", tf.tidy(() => gelu(linear(scope, "net.0.proj", x)))));
}

/** `x (1 + scale) + shift`: x [batch, tokens, width]; scale, shift [batch, 1, width]. */
export function modulate(x: tf.Tensor3D, shift: tf.Tensor, scale: tf.Tensor): tf.Tensor3D {
  return tf.tidy(() => tf.add<tf.Tensor3D>(tf.mul(x, tf.add(scale, 1)), shift));
}

/** [batch, parts * width] or [batch, parts, width] -> parts times [batch, 1, width]. */
export function chunks(x: tf.Tensor, parts: number): tf.Tensor3D[] {
  const batch = x.shape[0]!;
  return tf.split(tf.reshape<tf.Rank.R3>(x, [batch, parts, -1]), parts, 1);
}

/** [batch, tokens, heads * dim] -> [batch, heads, tokens, dim] */
export function splitHeads(x: tf.Tensor3D, heads: number): tf.Tensor4D {
  const [batch, tokens, width] = x.shape;
  return tf.transpose(tf.reshape<tf.Rank.R4>(x, [batch, tokens, heads, width / heads]), [0, 2, 1, 3]);
}

/** [batch, heads, tokens, dim] -> [batch, tokens, heads * dim] */
export function mergeHeads(x: tf.Tensor4D): tf.Tensor3D {
  const [batch, heads, tokens, dim] = x.shape;
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, tokens, heads * dim]);
}

/** Cosines and sines as tensors, [tokens, dim]; both channels of a pair hold the same angle. */
export interface Rotation {
  readonly cos: tf.Tensor2D;
  readonly sin: tf.Tensor2D;
  /** The first tokens that are not turned. */
  readonly skip: number;
}

/** Turns pairs of neighbouring channels: `(a, b) -> (a cos - b sin, b cos + a sin)`; x [batch, heads, tokens, dim]. */
export function rotate(x: tf.Tensor4D, { cos, sin, skip }: Rotation): tf.Tensor4D {
  const [batch, heads, tokens, dim] = x.shape;
  return tf.tidy(() => {
    const still = skip > 0 ? tf.slice(x, [0, 0, 0, 0], [batch, heads, skip, dim]) : null;
    const turned = skip > 0 ? tf.slice(x, [0, 0, skip, 0], [batch, heads, tokens - skip, dim]) : x;
    const pairs = tf.reshape(turned, [-1, dim / 2, 2]);
    const rows = pairs.shape[0]!;
    const first = tf.slice(pairs, [0, 0, 0], [rows, dim / 2, 1]);
    const second = tf.slice(pairs, [0, 0, 1], [rows, dim / 2, 1]);
    const swapped = tf.reshape(tf.concat([tf.neg(second), first], 2), turned.shape);
    const result = tf.add<tf.Tensor4D>(tf.mul(turned, cos), tf.mul(swapped, sin));
    return still ? tf.concat([still, result], 2) : result;
  });
}

/** What makes q, k and v of an attention. */
export interface Projection {
  readonly heads: number;
  readonly rotation?: Rotation | null;
  /** Of the norms of q and k, where there are any. */
  readonly epsilon?: number;
}

/** One of q, k, v: projected, split, normed and turned, [batch, heads, tokens, dim]. */
export function projected(
  scope: Scope,
  part: "q" | "k" | "v",
  x: tf.Tensor3D,
  { heads, rotation, epsilon = 1e-6 }: Projection,
): tf.Tensor4D {
  return tf.tidy(() => {
    const split = splitHeads(linear(scope, `to_${part}`, x), heads);
    if (part === "v") return split;
    const normed = scope.find(`norm_${part}.weight`)
      ? layerNorm(split, epsilon, scope, `norm_${part}`)
      : split;
    return rotation ? rotate(normed, rotation) : normed;
  });
}

/**
 * Attention from x [batch, tokens, width] to the `kept` tokens of context [batch, length, channels], after the output projection. A row that
 * keeps no token sees all of them, as with the large negative bias of diffusers.
 */
export function crossAttention(
  scope: Scope,
  x: tf.Tensor3D,
  context: tf.Tensor3D,
  kept: readonly KeptTokens[],
  projection: Projection,
): tf.Tensor3D {
  return tf.tidy(() => {
    const q = projected(scope, "q", x, projection);
    const { rotation: _, ...unturned } = projection;
    const k = projected(scope, "k", context, unturned);
    const v = projected(scope, "v", context, unturned);
    const parts = kept.map(({ first, rows, tokens }) => {
      const own = (tensor: tf.Tensor4D): tf.Tensor4D =>
        kept.length === 1 ? tensor : tf.slice(tensor, [first, 0, 0, 0], [rows, ...tensor.shape.slice(1)]);
      const keys = (tensor: tf.Tensor4D): tf.Tensor4D => (tokens ? take(own(tensor), tokens) : own(tensor));
      return attend(own(q), keys(k), keys(v)).output;
    });
    return linear(scope, "to_out.0", mergeHeads(parts.length === 1 ? parts[0]! : tf.concat(parts, 0)));
  });
}

/** Tokens `tokens` of x [batch, heads, length, dim]; a prefix without gathering. */
function take(x: tf.Tensor4D, tokens: readonly number[]): tf.Tensor4D {
  const [batch, heads, , dim] = x.shape;
  if (tokens.every((token, i) => token === i)) {
    return tf.slice(x, [0, 0, 0, 0], [batch, heads, tokens.length, dim]);
  }
  return tf.gather(x, tf.tensor1d([...tokens], "int32"), 2);
}

/** Neighbouring rows of a batch that see the same tokens; null: all. */
export interface KeptTokens {
  readonly first: number;
  readonly rows: number;
  readonly tokens: readonly number[] | null;
}

/**
 * The tokens that a mask [batch * length] (1: seen) leaves to each row.
 * @throws {TypeError} on a mask of another size
 */
export function keptTokens(mask: ArrayLike<number> | undefined, batch: number, length: number): KeptTokens[] {
  if (!mask) return [{ first: 0, rows: batch, tokens: null }];
  requireElements("textMask", mask, [batch, length]);
  const groups: { first: number; rows: number; tokens: number[] | null }[] = [];
  for (let row = 0; row < batch; row++) {
    const seen: number[] = [];
    for (let token = 0; token < length; token++) if (mask[row * length + token]) seen.push(token);
    const tokens = seen.length === 0 || seen.length === length ? null : seen;
    const last = groups.at(-1);
    if (last && String(last.tokens) === String(tokens)) last.rows++;
    else groups.push({ first: row, rows: 1, tokens });
  }
  return groups;
}

/** @throws {TypeError} unless `values` are as many as `shape` says */
export function requireElements(name: string, values: ArrayLike<number>, shape: readonly number[]): void {
  const size = shape.reduce((a, b) => a * b, 1);
  if (values?.length === size) return;
  throw new TypeError(
    `Cannot run a model as '${name}' must have the elements of [${
      shape.join(", ")
    }]: current size is ${values?.length}`,
  );
}

/** @throws {TypeError} unless `tensor` has `shape`; null stands for any size */
export function requireShape(name: string, tensor: tf.Tensor, shape: readonly (number | null)[]): void {
  const found = tensor?.shape;
  if (
    Array.isArray(found) && found.length === shape.length &&
    shape.every((size, axis) => size === null || size === found[axis])
  ) return;
  throw new TypeError(
    `Cannot run a model as '${name}' must be [${
      shape.map((size) => size ?? "any").join(", ")
    }]: current shape is [${found?.join(", ") ?? found}]`,
  );
}

/** One time for each row of a batch. @throws {TypeError} on another number of times */
export function timesOf(timestep: number | ArrayLike<number>, batch: number): number[] {
  const times = typeof timestep === "number" ? Array<number>(batch).fill(timestep) : Array.from(timestep);
  requireElements("timestep", times, [batch]);
  return times;
}

/** A table as a tensor, [rows, width]. */
export function tableTensor({ data, shape }: EmbeddingTable): tf.Tensor2D {
  return tf.tensor2d(data, shape);
}

/** [batch, channels, height, width] -> [batch, rows * columns, channels * size * size], patches in raster order. */
export function patchify(x: tf.Tensor4D, size: number): tf.Tensor3D {
  const [batch, channels, height, width] = x.shape;
  const [rows, columns] = [height / size, width / size];
  const patches = tf.transpose(tf.reshape(x, [batch, channels, rows, size, columns, size]), [
    0,
    2,
    4,
    1,
    3,
    5,
  ]);
  return tf.reshape(patches, [batch, rows * columns, channels * size * size]);
}

/** [batch, rows * columns, size * size * channels] -> [batch, channels, height, width]: channels last in a patch. */
export function unpatchify(x: tf.Tensor3D, size: number, rows: number, columns: number): tf.Tensor4D {
  const batch = x.shape[0];
  const channels = x.shape[2] / size ** 2;
  const patches = tf.transpose(tf.reshape(x, [batch, rows, columns, size, size, channels]), [
    0,
    5,
    1,
    3,
    2,
    4,
  ]);
  return tf.reshape(patches, [batch, channels, rows * size, columns * size]);
}
