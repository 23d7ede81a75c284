/** The update of stochastic gradient descent with momentum: one pass over memory on wasm, where it else is seven operations. */
import * as tf from "@tensorflow/tfjs";
import {
  type Code,
  type FunctionBuilder,
  i32,
  type Local,
  ModuleBuilder,
  sequence,
  set,
} from "../wasm/mod.ts";
import { eachNumber, kernelsOf, type Lanes } from "./_elementwise.ts";
import { wasmHeap } from "./wasm_heap.ts";

/** How {@linkcode momentumUpdate} goes. */
export interface MomentumSettings {
  readonly rate: number;
  /** Weight of the old velocity. */
  readonly momentum: number;
  /** L2 decay added to the gradient; 0 leaves it out. */
  readonly decay: number;
  /** Look ahead along the velocity. */
  readonly nesterov: boolean;
}

/**
 * Assigns a variable w and its velocity v, of one shape, their values after a step of gradient g:
 * g += decay * w;  v = momentum * v + g;  w -= rate * (nesterov ? g + momentum * v : v).
 *
 * The same numbers on wasm, bit for bit, as by TensorFlow.js's operations, which compute it on the other backends. Data that other
 * tensors share (clones, values saved for a gradient) stay as they are.
 *
 * @throws {TypeError} if the three are not of one shape, or not float32
 */
export function momentumUpdate(
  variable: tf.Variable,
  velocity: tf.Variable,
  gradient: tf.Tensor,
  settings: MomentumSettings,
): void {
  for (const [name, { shape, dtype }] of Object.entries({ velocity, gradient })) {
    if (dtype !== "float32" || !tf.util.arraysEqual(shape, variable.shape)) {
      throw new TypeError(
        `Cannot update a variable as '${name}' must be float32 [${variable.shape}]: it is ${dtype} [${shape}]`,
      );
    }
  }
  if (tf.getBackend() === "wasm") updateInPlace(variable, velocity, gradient, settings);
  else updateByOperations(variable, velocity, gradient, settings);
}

/** The specification. */
export function updateByOperations(
  variable: tf.Variable,
  velocity: tf.Variable,
  gradient: tf.Tensor,
  { rate, momentum, decay, nesterov }: MomentumSettings,
): void {
  tf.tidy(() => {
    const decayed = decay === 0 ? gradient : tf.add(gradient, tf.mul(variable, decay));
    velocity.assign(tf.add(tf.mul(velocity, momentum), decayed));
    const direction = nesterov ? tf.add(decayed, tf.mul(velocity, momentum)) : velocity;
    variable.assign(tf.sub(variable, tf.mul(direction, rate)));
  });
}

function updateInPlace(
  variable: tf.Variable,
  velocity: tf.Variable,
  gradient: tf.Tensor,
  { rate, momentum, decay, nesterov }: MomentumSettings,
): void {
  const updated = [variable, velocity].map((old) =>
    wasmHeap.isShared(old) ? tf.engine().makeTensorFromTensorInfo(wasmHeap.output(old.shape)) : old
  );
  kernels()[nameOf(decay !== 0, nesterov)]!(
    wasmHeap.address(variable),
    wasmHeap.address(velocity),
    wasmHeap.address(gradient),
    wasmHeap.address(updated[0]!),
    wasmHeap.address(updated[1]!),
    4 * variable.size,
    rate,
    momentum,
    decay,
  );
  [variable, velocity].forEach((old, index) => {
    if (updated[index] === old) return wasmHeap.changed(old);
    old.assign(updated[index]!);
    updated[index]!.dispose();
  });
}

function nameOf(decayed: boolean, nesterov: boolean): string {
  return `${decayed ? "decayed" : "plain"} ${nesterov ? "nesterov" : "heavy ball"}`;
}

/** Five addresses and a count; rate, momentum, decay. */
const parameters = ["i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32", "f32"] as const;

const kernels = kernelsOf(() => {
  const module = new ModuleBuilder();
  for (const decayed of [false, true]) {
    for (const nesterov of [false, true]) {
      const update = module.function(nameOf(decayed, nesterov), parameters);
      eachNumber(update, update.params[5], (lanes, at) => step(update, lanes, at, { decayed, nesterov }));
    }
  }
  return module;
});

/** One number or four. No fused multiply-add: the operations that specify it round twice. */
function step(
  update: FunctionBuilder<typeof parameters>,
  lanes: Lanes,
  at: Local,
  { decayed, nesterov }: { decayed: boolean; nesterov: boolean },
): Code {
  const [value, velocity, gradient, newValue, newVelocity, , rate, momentum, decay] = update.params;
  const [w, g, v] = [update.local(lanes.type), update.local(lanes.type), update.local(lanes.type)];
  const read = (address: Local) => lanes.load(i32.add(address, at));
  const scaled = (operand: Local, setting: Local) => lanes.mul(operand, lanes.spread(setting));
  const kept = lanes.mul(read(velocity), lanes.spread(momentum));
  return sequence(
    set(w, read(value)),
    set(g, decayed ? lanes.add(read(gradient), scaled(w, decay)) : read(gradient)),
    set(v, lanes.add(kept, g)),
    lanes.store(i32.add(newVelocity, at), v),
    nesterov ? set(g, lanes.add(g, scaled(v, momentum))) : set(g, v),
    lanes.store(i32.add(newValue, at), lanes.sub(w, scaled(g, rate))),
  );
}
