/** Second derivatives of operations that save their output for the gradient (exp, sigmoid, tanh, softmax, ...). Room-private. */
import * as tf from "@tensorflow/tfjs";

/** What is used of TensorFlow.js's engine beyond its interface. */
interface Engine {
  readonly state: { readonly activeTape: object[] | null };
  isTapeOn(): boolean;
  runKernelFunc(kernel: unknown): unknown;
}

let mended = false;

/**
 * Makes TensorFlow.js record an operation before the copies that it saves for its gradient.
 *
 * It records a copy of an output first, before the operation that the output comes from, so that the copy seems to come from nowhere:
 * a gradient that reads it is differentiated as if the output were a constant, and second derivatives lack terms without a word.
 * First derivatives do not depend on that order.
 */
export function mendSavedOutputs(): void {
  if (mended) return;
  mended = true;
  const engine = tf.engine() as unknown as Engine;
  const run = engine.runKernelFunc;
  engine.runKernelFunc = (kernel) => {
    const recorded = engine.isTapeOn();
    const start = engine.state.activeTape?.length ?? 0;
    const result = run.call(engine, kernel);
    if (recorded) {
      // While an operation runs nothing but copies is recorded, and itself at the end.
      const tape = engine.state.activeTape!;
      if (tape.length > start + 1) tape.splice(start, 0, tape.pop()!);
    }
    return result;
  };
}
