/** What masks, tile lists and the operator are made of. */
import type * as tf from "@tensorflow/tfjs";

/**
 * Which keys each query may see. Defined row by row: everything else (kept share, tiles, pictures) follows from the
 * intervals, and nothing of size queries x keys is ever made.
 */
export interface Mask {
  /** Says what it is: `band(64)`. Equal labels, queries, keys and heads: equal masks. */
  readonly label: string;
  readonly queries: number;
  readonly keys: number;
  /** Heads with a mask of their own, in order; null where one serves any number of heads (and batch rows). */
  readonly heads: number | null;
  /** The keys that `query` sees in `head`: sorted, disjoint, non-touching half-open intervals, `[from, to, from, to, ...]`. */
  intervals(query: number, head: number): Int32Array;
}

/** The tiles of a mask that hold at least one kept element, row of tiles after row of tiles. */
export interface TileList {
  readonly label: string;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number | null;
  /** Rows of a tile. */
  readonly tileQueries: number;
  /** Columns of a tile; a multiple of 32 or below 32 a power of two. */
  readonly tileKeys: number;
  /**
   * Where each row of tiles starts in `columns`: `(heads ?? 1) * ceil(queries / tileQueries) + 1` numbers, head after
   * head.
   */
  readonly starts: Int32Array;
  /** The column of each touched tile, ascending within a row. */
  readonly columns: Int32Array;
  /** For each touched tile: -1 where all of its elements (inside the matrix) are kept, else its pattern in `patterns`. */
  readonly edges: Int32Array;
  /**
   * Patterns of kept elements, each once: tileQueries x ceil(tileKeys / 32) words, key j in bit j % 32 of word
   * floor(j / 32). Elements outside of the matrix are 0.
   */
  readonly patterns: Uint32Array;
}

/** What computes: see {@link AttendOptions.implementation}. */
export type Implementation = "auto" | "reference" | "tiles" | "kernel";

/** Settings of `attend`. */
export interface AttendOptions {
  /** Default: every query sees every key. */
  readonly mask?: Mask;
  /** Default 1 / sqrt(dim). */
  readonly scale?: number;
  /** Whether the log-sum-exp of each row is wanted. Default false. */
  readonly lse?: boolean;
  /** Gives `rho * O + residual` instead of O, in one pass: rho `[batch, heads, tokens]`, residual like the output. */
  readonly epilogue?: { readonly rho: tf.Tensor3D; readonly residual: tf.Tensor4D };
  /**
   * `reference`: all scores at once, the specification. `tiles`: gathered tiles and batched products, on any backend,
   * with gradients. `kernel`: own code for wasm and webgpu, forward only. Default `auto`: the fastest that can.
   */
  readonly implementation?: Implementation;
}

/** What attention gives back. */
export interface Attended {
  /** `[batch, heads, queries, dim]`. */
  readonly output: tf.Tensor4D;
  /** Natural logarithm of the sum of exp(scores) over kept keys, `[batch, heads, queries]`; null if not asked for. */
  readonly lse: tf.Tensor3D | null;
}
