/** States as values: copied, disposed of, written to bytes and read back. */
import * as tf from "@tensorflow/tfjs";
import {
  readSafetensors,
  readSafetensorsMetadata,
  type SafetensorsTensor,
  writeSafetensors,
} from "../../tensor/mod.ts";
import { stepsDone } from "./_define.ts";
import type { Held, Method, MethodContext, MethodState } from "./types.ts";

const FORMAT = "normlab attention state 1";

/**
 * A second state with tensors of its own: from here on two runs can differ.
 * @throws {RangeError} on a state that is spent
 */
export function copyState(state: MethodState): MethodState {
  requireUnspent("copy", state);
  const layers = state.layers.map((held) =>
    Object.fromEntries(Object.entries(held).map(([name, tensor]) => [name, tf.keep(tensor.clone())]))
  );
  return { ...state, done: [...state.done], layers };
}

/** Frees the tensors of a state, which is spent from then on; nothing on a state that is spent already. */
export function disposeState(state: MethodState): void {
  if (state.spent) return;
  (state as { spent: boolean }).spent = true;
  for (const held of state.layers) tf.dispose(held);
}

/** The bytes that the tensors of `method` take in a run, at the most that any step needs. */
export function stateBytes(method: Method, context: MethodContext): number {
  let most = 0;
  for (let done = 0; done <= context.steps; done++) {
    let numbers = 0;
    for (let layer = 0; layer < (context.layers ?? 1); layer++) {
      for (const shape of Object.values(method.holds(context, layer, done))) numbers += product(shape);
    }
    most = Math.max(most, 4 * numbers);
  }
  return most;
}

/**
 * A state as the bytes of a safetensors file: float32 tensors `layer.NAME`, and under the metadata the method's label, the sizes of the
 * run and how far it has come. The state stays as it is.
 * @throws {RangeError} on a state that is spent
 */
export async function saveState(state: MethodState): Promise<Uint8Array> {
  requireUnspent("save", state);
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [layer, held] of state.layers.entries()) {
    for (const [name, tensor] of Object.entries(held)) {
      const data = Float32Array.from(await tensor.data());
      tensors.set(`${layer}.${name}`, { dtype: "F32", shape: tensor.shape, data });
    }
  }
  return writeSafetensors(tensors, {
    format: FORMAT,
    method: state.method,
    context: JSON.stringify(state.context),
    step: JSON.stringify(state.step),
    done: JSON.stringify(state.done.flatMap((done, layer) => (done ? [layer] : []))),
  });
}

/**
 * The state that {@linkcode saveState} wrote, on the current backend, to go on with the run that `context` describes.
 * @throws {SyntaxError} The bytes are no state, or lack tensors that `method` holds at that point.
 * @throws {TypeError} The state is one of another method, or of a run of another model or other sizes.
 * @throws {RangeError} The method cannot make such a run.
 */
export function restoreState(method: Method, context: MethodContext, bytes: Uint8Array): MethodState {
  const begun = method.begin(context);
  const metadata = readSafetensorsMetadata(bytes);
  if (metadata.get("format") !== FORMAT) {
    throw malformed(`format must be "${FORMAT}"`, `format is ${quote(metadata.get("format"))}`);
  }
  for (
    const [key, wanted] of [["method", method.label], ["context", JSON.stringify(begun.context)]] as const
  ) {
    const found = metadata.get(key);
    if (found !== wanted) {
      throw new TypeError(
        `Cannot restore as the state's ${key} must be ${wanted}: current ${key} is ${quote(found)}`,
      );
    }
  }
  const { layers, steps } = begun.context;
  const step = parsed(metadata, "step", (value) => isIndex(value, steps + 1));
  const made = parsed(
    metadata,
    "done",
    (value): value is number[] =>
      Array.isArray(value) && value.length < layers && value.every((layer) => isIndex(layer, layers)) &&
      (step < steps || value.length === 0),
  );
  const done = begun.done.map((_, layer) => made.includes(layer));
  const state = { ...begun, step, done };
  const file = readSafetensors(bytes);
  const expected = done.map((_, layer) => method.holds(begun.context, layer, stepsDone(state, layer)));
  checkTensors(file, expected);
  const held: Held[] = expected.map((shapes, layer) =>
    Object.fromEntries(
      Object.keys(shapes).map((name) => {
        const { data, shape } = file.get(`${layer}.${name}`)!;
        // A copy, as the backend may keep the array and the file's bytes are the caller's.
        return [name, tf.keep(tf.tensor(Float32Array.from(data as Float32Array), shape))];
      }),
    )
  );
  return { ...state, layers: held };
}

/** That the file has exactly the tensors that the layers hold. */
function checkTensors(
  file: ReadonlyMap<string, SafetensorsTensor>,
  expected: readonly Readonly<Record<string, readonly number[]>>[],
): void {
  const wanted = new Map<string, readonly number[]>(
    expected.flatMap((shapes, layer) =>
      Object.entries(shapes).map(([name, shape]) => [`${layer}.${name}`, shape] as const)
    ),
  );
  for (const [name, shape] of wanted) {
    const tensor = file.get(name);
    if (tensor?.dtype !== "F32" || tensor.shape.join() !== shape.join()) {
      const found = tensor ? `${tensor.dtype} [${tensor.shape.join(", ")}]` : "missing";
      throw malformed(`tensor "${name}" must be F32 [${shape.join(", ")}]`, `tensor is ${found}`);
    }
  }
  const extra = [...file.keys()].find((name) => !wanted.has(name));
  if (extra !== undefined) {
    const names = [...wanted.keys()].join(", ") || "none";
    throw malformed(`tensors must be ${names}`, `tensor ${quote(extra)} is there too`);
  }
}

function parsed<T>(
  metadata: ReadonlyMap<string, string>,
  key: string,
  is: (value: unknown) => value is T,
): T {
  const text = metadata.get(key);
  try {
    const value: unknown = JSON.parse(text ?? "");
    if (is(value)) return value;
  } catch {
    // Said below.
  }
  throw malformed(
    `'${key}' must be what saveState writes`,
    `${key} is ${quote(text)}`,
  );
}

function isIndex(value: unknown, end: number): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value < end;
}

function requireUnspent(what: string, { spent }: MethodState): void {
  if (spent) {
    throw new RangeError(
      `Cannot ${what} as 'state' must be the one that the last call gave back: current state is an earlier one, or disposed of`,
    );
  }
}

/** Text of a file for a message. */
function quote(text: string | undefined): string {
  return text === undefined
    ? "missing"
    : JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}...` : text);
}

function malformed(requirement: string, found: string): SyntaxError {
  return new SyntaxError(`Cannot restore as ${requirement}: current ${found}`);
}

function product(shape: readonly number[]): number {
  return shape.reduce((all, size) => all * size, 1);
}
