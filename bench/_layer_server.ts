/**
 * The kit as a contender of bench/layers.ts: `deno run -A bench/_layer_server.ts BACKEND (compiled | interpreted)`.
 *
 * Requests as in bench/peers/layers.py, and two of its own: `first` (from graph to first result, for many graphs) and `tierUp` (every
 * call of a new layer from the first on).
 */
import * as tf from "@tensorflow/tfjs";
import { readFile, writeFile } from "node:fs/promises";
import process from "node:process";
import type { LayerGraph } from "../lib/graph/mod.ts";
import { NormActivation, Parameters } from "../lib/layers/mod.ts";
import { type BackendName, stream, useBackend } from "../lib/tensor/mod.ts";
import { serve } from "./_contender.ts";
import { drawGraphs, type LayerCase } from "./_layer_cases.ts";

type Shape = [number, number, number, number];

interface CaseRequest {
  layer: LayerCase;
  shape: Shape;
  inputs: string;
}

/** What can be asked for. */
export type LayerRequest =
  | CaseRequest & { action: "check"; outputs: string }
  | CaseRequest & { action: "time"; phase: "forward" | "forward+backward"; seconds: number; most: number }
  | { action: "first"; count: number; shape: Shape; groups: number }
  | CaseRequest & { action: "tierUp"; calls: number };

const [backend, evaluation] = process.argv.slice(2) as [BackendName, "compiled" | "interpreted"];
const { device } = await useBackend(backend);

/** One layer at one shape with its inputs on the backend. */
class Case {
  readonly #parameters = new Parameters();
  readonly #layer: NormActivation;
  readonly #x: tf.Tensor4D;
  readonly #dy: tf.Tensor4D;

  constructor(graph: LayerGraph, groups: number, shape: Shape, inputs: Float32Array) {
    const channels = shape[3];
    const size = shape.reduce((product, extent) => product * extent, 1);
    this.#layer = new NormActivation(
      graph,
      channels,
      this.#parameters,
      { groups, evaluation },
    );
    this.#x = tf.tensor4d(inputs.subarray(0, size), shape);
    this.#dy = tf.tensor4d(inputs.subarray(size, 2 * size), shape);
    ["v0", "v1", "gamma", "beta"].forEach((name, k) => {
      const from = 2 * size + k * channels;
      const values = inputs.subarray(from, from + channels);
      if (values.length === channels) this.#variable(name)?.assign(tf.tensor1d(values));
    });
  }

  #variable(name: string): tf.Variable | undefined {
    return this.#parameters.all.find((parameter) => parameter.name === name)?.variable;
  }

  forward(): void {
    tf.tidy(() => void this.#layer.apply(this.#x, true));
  }

  /** y and the gradients of sum(y * dy) to x, v0, v1, gamma and beta; null where there is none. */
  both(): (tf.Tensor | null)[] {
    const vectors = ["v0", "v1", "gamma", "beta"].map((name) => this.#variable(name));
    const present = vectors.filter((vector) => vector !== undefined);
    const inputs: tf.Tensor[] = [this.#x, ...present];
    const { value, grads } = tf.engine().gradients(() => this.#layer.apply(this.#x, true), inputs, this.#dy);
    const of = new Map(inputs.map((input, k) => [input, grads[k] ?? null]));
    return [value, of.get(this.#x)!, ...vectors.map((vector) => vector ? of.get(vector)! : null)];
  }

  forwardAndBackward(): void {
    tf.tidy(() => void this.both());
  }

  /** All results in one array, zeros where there is no gradient. */
  outputs(): Float32Array<ArrayBuffer> {
    const { size, shape: [, , , channels] } = this.#x;
    const flat = new Float32Array(2 * size + 4 * channels);
    tf.tidy(() => {
      this.both().forEach((tensor, k) => {
        const at = k < 2 ? k * size : 2 * size + (k - 2) * channels;
        if (tensor) flat.set(tensor.dataSync() as Float32Array, at);
      });
    });
    return flat;
  }

  dispose(): void {
    this.#parameters.dispose();
    tf.dispose([this.#x, this.#dy]);
  }
}

async function readFloats(path: string): Promise<Float32Array> {
  const bytes = await readFile(path);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

let current: { key: string; layer: Case } | undefined;

/** The case of a request; the last one is kept for the rounds that follow. */
async function caseOf({ layer, shape, inputs }: CaseRequest): Promise<Case> {
  const key = `${layer.name} ${shape}`;
  if (current?.key !== key) {
    current?.layer.dispose();
    current = { key, layer: new Case({ nodes: layer.nodes }, layer.groups, shape, await readFloats(inputs)) };
  }
  return current.layer;
}

/** Milliseconds of repeated calls: at least `least`, at most `most`, as many as fit into `seconds`. */
function times(call: () => void, seconds: number, most: number, least = 3): number[] {
  const milliseconds: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (milliseconds.length < least || (milliseconds.length < most && performance.now() < end)) {
    milliseconds.push(timed(call));
  }
  return milliseconds;
}

function timed(call: () => void): number {
  const start = performance.now();
  call();
  return performance.now() - start;
}

/** From graph to first result with gradients, for `count` graphs one after the other: [ms of each]. */
function firstResults(count: number, shape: Shape, groups: number): number[] {
  const draws = stream(0);
  const graphs = drawGraphs(count, draws.child("graphs"));
  const size = shape.reduce((product, extent) => product * extent, 1);
  const inputs = draws.child("inputs").normal(2 * size);
  return graphs.map((graph) => {
    let layer: Case | undefined;
    const milliseconds = timed(() => {
      layer = new Case(graph, groups, shape, inputs);
      layer.outputs();
    });
    layer!.dispose();
    return milliseconds;
  });
}

await serve<LayerRequest>(async (request) => {
  switch (request.action) {
    case "check": {
      const layer = await caseOf(request);
      let flat = new Float32Array();
      const firstMilliseconds = timed(() => flat = layer.outputs());
      await writeFile(request.outputs, new Uint8Array(flat.buffer));
      return { firstMilliseconds };
    }
    case "time": {
      const layer = await caseOf(request);
      const call = () => request.phase === "forward" ? layer.forward() : layer.forwardAndBackward();
      // Engines optimise what has run a while: the steady state is measured here, the way to it by `tierUp`.
      times(call, 0.1, 20, 2);
      return { version: device, milliseconds: times(call, request.seconds, request.most) };
    }
    case "first":
      return { version: device, milliseconds: firstResults(request.count, request.shape, request.groups) };
    case "tierUp": {
      const inputs = await readFloats(request.inputs);
      let layer: Case | undefined;
      const milliseconds = Array.from({ length: request.calls }, () =>
        timed(() => {
          layer ??= new Case({ nodes: request.layer.nodes }, request.layer.groups, request.shape, inputs);
          layer.forwardAndBackward();
        }));
      layer?.dispose();
      return { version: device, milliseconds };
    }
  }
});
