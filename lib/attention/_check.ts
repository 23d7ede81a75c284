/** What `attend` refuses, before any work. */
import type * as tf from "@tensorflow/tfjs";
import type { AttendOptions, Implementation } from "./types.ts";

const implementations: readonly Implementation[] = ["auto", "reference", "tiles", "kernel"];

/** The sizes of one call. */
export interface Sizes {
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
}

/**
 * The sizes of `attend(q, k, v, options)`, after all checks.
 * @throws {TypeError} on tensors that are not float32 of the right shapes, or a mask of other sizes
 * @throws {RangeError} on a scale that is not finite, or an unknown implementation
 */
export function checkAttend(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { mask, scale, epilogue, implementation }: AttendOptions,
): Sizes {
  requireTensor("q", q, ["batch", "heads", "queries", "dim"]);
  const [batch, heads, queries, dim] = q.shape;
  requireTensor("k", k, ["batch", "heads", "keys", "dim"]);
  const keys = k.shape[2];
  requireTensor("k", k, ["batch", "heads", "keys", "dim"], [batch, heads, keys, dim]);
  requireTensor("v", v, ["batch", "heads", "keys", "dim"], [batch, heads, keys, dim]);
  const sizes = { batch, heads, queries, keys, dim };
  if (mask) {
    if (mask.queries !== queries || mask.keys !== keys) {
      throw new TypeError(
        `Cannot attend as 'mask' must have [queries, keys] = [${queries}, ${keys}]: ` +
          `current mask is ${mask.label} of [${mask.queries}, ${mask.keys}]`,
      );
    }
    if (mask.heads !== null && mask.heads !== heads) {
      throw new TypeError(
        `Cannot attend as 'mask' must serve any head or have ${heads} heads: ` +
          `current mask is ${mask.label} of ${mask.heads} heads`,
      );
    }
  }
  if (epilogue) {
    requireTensor("rho", epilogue.rho, ["batch", "heads", "queries"], [batch, heads, queries]);
    const output = [batch, heads, queries, dim];
    requireTensor("residual", epilogue.residual, ["batch", "heads", "queries", "dim"], output);
  }
  if (scale !== undefined && !Number.isFinite(scale)) {
    throw new RangeError(`Cannot attend as 'scale' must be a finite number: current scale is ${scale}`);
  }
  if (implementation !== undefined && !implementations.includes(implementation)) {
    throw new RangeError(
      `Cannot attend as 'implementation' must be one of ${implementations.join(", ")}: ` +
        `current implementation is ${implementation}`,
    );
  }
  return sizes;
}

/** One tensor: float32, with the axes `axes`, none of them empty, and of `shape` where that is known. */
function requireTensor(
  name: string,
  tensor: tf.Tensor,
  axes: readonly string[],
  shape?: readonly number[],
): void {
  const cannot = `Cannot attend as '${name}' must be`;
  const current = tensor?.shape;
  if (!Array.isArray(current)) {
    throw new TypeError(`${cannot} a tensor [${axes.join(", ")}]: current ${name} is ${tensor}`);
  }
  const fits = current.length === axes.length && current.every((size) => size > 0) &&
    (shape?.every((size, axis) => size === current[axis]) ?? true);
  if (!fits) {
    const wanted = shape ? ` = [${shape.join(", ")}]` : "";
    throw new TypeError(`${cannot} [${axes.join(", ")}]${wanted}: current shape is [${current.join(", ")}]`);
  }
  if (tensor.dtype !== "float32") {
    throw new TypeError(`${cannot} of dtype float32: current dtype is ${tensor.dtype}`);
  }
}
