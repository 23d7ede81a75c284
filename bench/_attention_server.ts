/**
 * A contender of bench/attention.ts: the kit's attention on a backend, `deno run -A bench/_attention_server.ts (wasm | tensorflow)`.
 *
 * Requests as in bench/peers/attention.py; `phase` may be `refresh` too (dense and sparse attention, rho and R), and `memory` measures
 * the peak of one call.
 */
import * as tf from "@tensorflow/tfjs";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import {
  attend,
  band,
  frameBand,
  keptShare,
  type Mask,
  occupancy,
  permuted,
  tokenMajorLayout,
} from "../lib/attention/mod.ts";
import { type BackendName, useBackend } from "../lib/tensor/mod.ts";
import { serve } from "./_contender.ts";
import { resetPeak, residentMib } from "./_resident_memory.ts";

/** Queries and keys of a tile of the wasm kernel. */
const TILE = [64, 32] as const;

/** Which keys are kept. */
export type AttentionMask =
  | { readonly kind: "band"; readonly half: number }
  | {
    readonly kind: "frames";
    readonly frames: number;
    readonly frameTokens: number;
    readonly text: number;
    readonly half: number;
    readonly order: "frame-major" | "token-major";
  };

/** What is computed: everything, what the mask keeps, that as rho * O + R, or the refresh step. */
export type AttentionPhase = "dense" | "sparse" | "sparse, rho O + R" | "refresh";

/** What can be asked for. */
export interface AttentionRequest {
  readonly action: "time" | "output" | "memory";
  /** Holds q, k, v and residual [batch, heads, tokens, dim] and rho [batch, heads, tokens] as float32 files. */
  readonly folder: string;
  readonly shape: readonly [batch: number, heads: number, tokens: number, dim: number];
  readonly mask: AttentionMask;
  readonly phase: AttentionPhase;
  readonly seconds: number;
  readonly most: number;
  /** Where `output` writes the result. */
  readonly path: string;
}

await useBackend(process.argv[2] as BackendName);
const masks = new Map<string, Mask>();

/** The mask object of a description: one, so that its tile list is made once. */
function maskOf(of: AttentionMask, tokens: number): Mask {
  const key = JSON.stringify([of, tokens]);
  let mask = masks.get(key);
  if (mask === undefined) {
    if (of.kind === "band") mask = band(tokens, of.half);
    else mask = of.order === "frame-major" ? frameBand(of) : permuted(frameBand(of), tokenMajorLayout(of));
    masks.set(key, mask);
  }
  return mask;
}

/** The last inputs, by their folder. */
let loaded: { readonly folder: string; readonly tensors: ReturnType<typeof readInputs> } | undefined;

function readInputs({ folder, shape }: AttentionRequest) {
  const [batch, heads, tokens] = shape;
  const read = (name: string) => new Float32Array(readFileSync(join(folder, name)).slice().buffer);
  const matrix = (name: string) => tf.tensor4d(read(name), [...shape]);
  return {
    q: matrix("q"),
    k: matrix("k"),
    v: matrix("v"),
    residual: matrix("residual"),
    rho: tf.tensor3d(read("rho"), [batch, heads, tokens]),
  };
}

function inputs(request: AttentionRequest): ReturnType<typeof readInputs> {
  if (loaded?.folder !== request.folder) {
    if (loaded) tf.dispose(loaded.tensors);
    loaded = { folder: request.folder, tensors: readInputs(request) };
  }
  return loaded.tensors;
}

/** What is timed; the output is the last tensor. */
function callOf(request: AttentionRequest): () => tf.Tensor[] {
  const { q, k, v, rho, residual } = inputs(request);
  const mask = maskOf(request.mask, request.shape[2]);
  switch (request.phase) {
    case "dense":
      return () => [attend(q, k, v).output];
    case "sparse":
      return () => [attend(q, k, v, { mask }).output];
    case "sparse, rho O + R":
      return () => [attend(q, k, v, { mask, epilogue: { rho, residual } }).output];
    case "refresh":
      return () =>
        tf.tidy(() => {
          const full = attend(q, k, v, { lse: true });
          const sparse = attend(q, k, v, { mask, lse: true });
          const ratio = tf.exp(tf.sub(sparse.lse!, full.lse!));
          const rest = tf.sub(full.output, tf.mul(sparse.output, tf.expandDims(ratio, -1)));
          return [ratio, rest, full.output];
        });
  }
}

/** Milliseconds of processor time: other processes on the machine count less than in elapsed time. */
function processorTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Both backends have computed when a call returns. */
function times(call: () => tf.Tensor[], { seconds, most }: AttentionRequest): number[] {
  const milliseconds: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (milliseconds.length < 3 || (milliseconds.length < most && performance.now() < end)) {
    const start = processorTime();
    const results = call();
    milliseconds.push(processorTime() - start);
    tf.dispose(results);
  }
  return milliseconds;
}

/** What has been timed before. */
const warm = new Set<string>();

await serve<AttentionRequest>((request) => {
  const call = callOf(request);
  const warmUp = () => tf.dispose(call());
  switch (request.action) {
    case "output": {
      const results = call();
      writeFileSync(request.path, new Uint8Array(results.at(-1)!.dataSync().slice().buffer as ArrayBuffer));
      tf.dispose(results);
      return {};
    }
    case "memory": {
      resetPeak();
      const before = residentMib("VmRSS");
      warmUp();
      return { milliseconds: [], peakMib: residentMib("VmHWM") - before };
    }
    case "time": {
      warmUp();
      // The first time until the engine has optimised the kernel.
      const key = JSON.stringify([request.folder, request.phase]);
      const end = performance.now() + 500;
      for (let count = 1; !warm.has(key) && (count < 2 || performance.now() < end); count++) warmUp();
      warm.add(key);
      const mask = maskOf(request.mask, request.shape[2]);
      const percent = (share: number) => `${(100 * share).toFixed(2)}%`;
      const tiles = occupancy(mask, ...TILE).share;
      return {
        version: `kept ${percent(keptShare(mask))}, tiles ${percent(tiles)}`,
        milliseconds: times(call, request),
      };
    }
  }
});
