import type { IndexSet } from "../graph/mod.ts";

/** Moments before any root, and sums: what a kernel accumulates over pixels. */
export type Reduction = "mean" | "meanSquare" | "variance" | "sum";

/**
 * Operations of a program, beyond an extended graph's:
 *
 * | op | value |
 * |---|---|
 * | Input | a tensor handed to the kernel, by name |
 * | Sub(a, b) | a - b |
 * | Reciprocal(b), Invert(b) | 1 / b for b above the clamp; 1 / (s1(b) max(abs(b), eps)) with s1(b) = 1 for b >= 0, else -1: a / b is a product with one of them |
 * | Root(a) | sqrt(a + eps) |
 * | Relu(a), PassAbove(d, a) | max(a, 0); d where a > 0, else 0 (the gradient of libraries' ReLU, 0 at 0) |
 * | meanSquare, variance | raw second moments (biased), Root of which are rms and std |
 */
export type Elementwise =
  | "Add"
  | "Sub"
  | "Mul"
  | "Reciprocal"
  | "Invert"
  | "Max"
  | "Neg"
  | "Sigmoid"
  | "Tanh"
  | "Exp"
  | "Log"
  | "Abs"
  | "Square"
  | "Sqrt"
  | "Root"
  | "Sign"
  | "LogSlope"
  | "SqrtSlope"
  | "Pass"
  | "Gate"
  | "Relu"
  | "PassAbove";

/** One value of a program. */
export interface Value {
  readonly op: Elementwise | Reduction | "Input" | "Constant";
  /** Indices of earlier values. */
  readonly inputs: readonly number[];
  /** Of mean, meanSquare, variance. */
  readonly axes?: IndexSet;
  /** Of Constant. */
  readonly constant?: number;
  /** Of Input. */
  readonly name?: string;
  /** Whether it differs from pixel to pixel: [N, H, W, C]. Others are rows of C numbers. */
  readonly full: boolean;
  /** Whether it differs from sample to sample: full values, and rows [N, C]. Others are [C]. */
  readonly perSample: boolean;
}

/** Whether a value is accumulated over other values. */
export function isReduction(op: Value["op"]): op is Reduction {
  return op === "mean" || op === "meanSquare" || op === "variance" || op === "sum";
}

/** Whether a reduction runs over the batch, so that it is known only when every sample has been seen. */
export function overBatch({ op, axes }: Value): boolean {
  return op === "sum" || axes === "bwh";
}

/** What a kernel computes: values in order, each after its inputs, and which of them it hands out. */
export interface Program {
  readonly values: readonly Value[];
  /** Tensors [N, H, W, C], by name. */
  readonly images: readonly { readonly name: string; readonly value: number }[];
  /** Vectors [C], by name. */
  readonly vectors: readonly { readonly name: string; readonly value: number }[];
  /** Rows [N, C] or [C], kept by the forward pass for the backward pass; there inputs of the same name. */
  readonly saved: readonly { readonly name: string; readonly value: number }[];
  /** Added inside roots; keeps denominators and logarithms off zero. */
  readonly epsilon: number;
}
