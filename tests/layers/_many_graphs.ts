/**
 * Thousands of different layers, forward and backward, in a process of its own: what its memory grows by in the second half says nothing
 * of other tests. Prints tensors, bytes of the wasm heap, and MiB of resident memory.
 */
import * as tf from "@tensorflow/tfjs";
import process from "node:process";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { stream, useBackend, wasmHeap } from "../../lib/tensor/mod.ts";
import { randomGraph } from "../compile/_random_graphs.ts";

await useBackend("wasm");

const half = Number(process.argv[2]) / 2;
const draws = stream(3);
const shape: [number, number, number, number] = [2, 3, 4, 6];
const noise = (name: string) => tf.tensor4d(draws.child(name).normal(2 * 3 * 4 * 6), shape);
const [x, dy] = [noise("x"), noise("dy")];

function use(from: number, to: number): void {
  for (let index = from; index < to; index++) {
    const parameters = new Parameters();
    const graph = randomGraph(draws.child(`graph ${index}`));
    const norm = new NormActivation(graph, 6, parameters, { groups: 3 });
    tf.tidy(() => void tf.grad((t) => tf.sum(tf.mul(norm.apply(t as tf.Tensor4D, true), dy)))(x));
    parameters.dispose();
  }
}

function measure() {
  // Started with --expose-gc: what the collector has not come to yet is not kept.
  (globalThis as unknown as { gc(): void }).gc();
  return {
    tensors: tf.memory().numTensors,
    heap: wasmHeap.memory.buffer.byteLength,
    residentMib: process.memoryUsage().rss / 2 ** 20,
  };
}

const atFirst = measure().tensors;
use(0, half);
const before = measure();
use(half, 2 * half);
const after = measure();
console.log(JSON.stringify({
  tensors: after.tensors - atFirst,
  heap: after.heap - before.heap,
  residentMib: after.residentMib - before.residentMib,
}));
