/** What selections refuse, before any work. */
import type * as tf from "@tensorflow/tfjs";

/** The sizes of queries and keys of one call. */
export interface Sizes {
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
}

/**
 * The sizes of `tensors`, all float32 of the first one's shape [batch, heads, tokens, dim].
 * @throws {TypeError} on other shapes and types; `what` completes "Cannot"
 */
export function requireTensors(what: string, tensors: Readonly<Record<string, tf.Tensor4D>>): Sizes {
  const first = Object.values(tensors)[0]?.shape;
  for (const [name, tensor] of Object.entries(tensors)) {
    const shape = tensor?.shape;
    const fits = shape?.length === 4 && shape.every((size, axis) => size > 0 && size === first![axis]);
    if (!fits) {
      const wanted = first?.length === 4 ? ` = [${first.join(", ")}]` : "";
      throw new TypeError(
        `Cannot ${what} as '${name}' must be [batch, heads, tokens, dim]${wanted}: current shape is [${
          shape?.join(", ") ?? tensor
        }]`,
      );
    }
    if (tensor.dtype !== "float32") {
      throw new TypeError(
        `Cannot ${what} as '${name}' must be of dtype float32: current dtype is ${tensor.dtype}`,
      );
    }
  }
  const [batch, heads, tokens, dim] = first as [number, number, number, number];
  return { batch, heads, tokens, dim };
}

/** @throws {RangeError} unless every value is a number from 0 (exclusive) to 1 */
export function requireShares(what: string, values: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!(value > 0 && value <= 1)) {
      throw new RangeError(
        `Cannot ${what} as '${name}' must be above 0 and at most 1: current ${name} is ${value}`,
      );
    }
  }
}

/** @throws {RangeError} unless `value` is one of `allowed` */
export function requireOneOf(what: string, name: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) {
    throw new RangeError(
      `Cannot ${what} as '${name}' must be one of ${allowed.join(", ")}: current ${name} is ${value}`,
    );
  }
}
