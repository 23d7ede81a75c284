/** One file of reference selections: its tensors, its description, and what came of comparing them. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Mask } from "../../lib/attention/mod.ts";
import { readSafetensors, type SafetensorsTensor } from "../../lib/tensor/mod.ts";
import { compare, type Comparison, largest } from "./report.ts";

/** Sums of up to a few hundred float32 products and softmax of them, against float64: some ten times the rounding of one. */
export const TOLERANCE = 1e-5;

/** q, k and v. */
export type Inputs = [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];

/** Comparisons with one rival's files. */
export class Rival {
  readonly comparisons: Comparison[] = [];
  readonly skipped: string[] = [];
  #tensors = new Map<string, SafetensorsTensor>();

  constructor(readonly folder: string, readonly name: string) {}

  /** The description. */
  async json<T>(): Promise<T> {
    return JSON.parse(await readFile(join(this.folder, `${this.name}.json`), "utf8"));
  }

  /** Reads the tensors. */
  async load(file: string = this.name): Promise<void> {
    this.#tensors = readSafetensors(await readFile(join(this.folder, `${file}.safetensors`)));
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  reference(name: string): { shape: readonly number[]; data: Float32Array | Int32Array | Uint8Array } {
    const tensor = this.#tensors.get(name);
    if (!tensor) {
      throw new RangeError(`Cannot check ${this.name} as its tensors must include "${name}": there is none`);
    }
    return { shape: tensor.shape, data: tensor.data as Float32Array | Int32Array | Uint8Array };
  }

  /** A reference tensor [batch, heads, tokens, dim], its first `tokens` only. */
  input(name: string, tokens?: number): tf.Tensor4D {
    const { shape, data } = this.reference(name);
    const [batch, heads, all, dim] = shape as [number, number, number, number];
    const size = [batch, heads, tokens ?? all, dim] as [number, number, number, number];
    return tf.tensor4d(cut(data, shape, size), size);
  }

  /** Compares with numbers of the description. */
  numbers(name: string, measured: ArrayLike<number>, reference: ArrayLike<number>, tolerance = 0): void {
    this.comparisons.push(
      compare(`rivals/${this.name} ${name}`, measured, reference, [reference.length], tolerance),
    );
  }

  /**
   * Compares with a tensor, or with its first elements along each axis, as `shape` says. The name's last part is the kind that reports
   * are by. Gives the largest error, which is not relative.
   */
  tensor(name: string, measured: ArrayLike<number>, tolerance = 0, shape?: readonly number[]): number {
    const { data, shape: whole } = this.reference(name);
    const reference = cut(data, whole, shape ?? whole);
    const dot = name.lastIndexOf(".");
    const label = dot < 0 ? `/${name}` : ` ${name.slice(0, dot)}/${name.slice(dot + 1)}`;
    const result = compare(
      `rivals/${this.name}${label}`,
      measured,
      reference,
      shape ?? whole,
      tolerance,
    );
    this.comparisons.push(result);
    return result.error * (largest(reference) || 1);
  }

  /** Compares what was selected, unless scores that are off by `error` could be on the other side of a threshold `margin` away. */
  selected(name: string, error: number, margin: number, check: () => void): boolean {
    const sure = 2 * error < margin;
    if (sure) check();
    else this.skipped.push(`${this.name} ${name}: ${margin} from its threshold, scores are off by ${error}`);
    return sure;
  }
}

/** The first elements of an array along each axis. */
export function cut(data: ArrayLike<number>, whole: readonly number[], shape: readonly number[]): number[] {
  return Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, index) => {
    let [rest, at, stride] = [index, 0, 1];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += rest % shape[axis]! * stride;
      rest = Math.floor(rest / shape[axis]!);
      stride *= whole[axis]!;
    }
    return data[at]!;
  });
}

/** The columns that are kept of each row. */
export function keptColumns(kept: Uint8Array, columns: number): number[] {
  return Array.from(kept.keys()).filter((index) => kept[index] === 1).map((index) => index % columns);
}

/** The smallest distance between the `count`-th largest and the next of any row. */
export function gapOf(scores: ArrayLike<number>, columns: number, count: number): number {
  let gap = Infinity;
  for (let from = 0; from < scores.length; from += columns) {
    const row = Array.from({ length: columns }, (_, column) => scores[from + column]!).sort((a, b) => b - a);
    gap = Math.min(gap, row[count - 1]! - (row[count] ?? -Infinity));
  }
  return gap;
}

/** The keys of one query as ones. */
export function keptOf(mask: Mask, query: number): Uint8Array {
  const kept = new Uint8Array(mask.keys);
  const bounds = mask.intervals(query, 0);
  for (let i = 0; i < bounds.length; i += 2) kept.fill(1, bounds[i]!, bounds[i + 1]!);
  return kept;
}

/** A mask as bits: [queries, ceil(keys / 8)], key j in bit j % 8 of byte floor(j / 8). */
export function packed(mask: Mask): Uint8Array {
  const width = Math.ceil(mask.keys / 8);
  const bytes = new Uint8Array(mask.queries * width);
  for (let query = 0; query < mask.queries; query++) {
    for (const [key, flag] of keptOf(mask, query).entries()) {
      bytes[query * width + (key >> 3)]! |= flag << (key & 7);
    }
  }
  return bytes;
}
