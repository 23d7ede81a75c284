/** Compiled layers: programs made once per layer, kernels once per shape. Room-private. */
import type * as tf from "@tensorflow/tfjs";
import { formula, type Mode } from "../graph/mod.ts";
import {
  type KernelShape,
  type LayerPrograms,
  layerPrograms,
  type Schedule,
  schedule,
  secondGradientProgram,
} from "../compile/mod.ts";
import type { LayerParts } from "./_layer_inputs.ts";

/** A map that forgets what was not used for longest, and says so. */
export class Recent<Key, T> {
  readonly #entries = new Map<Key, T>();
  readonly #most: number;
  readonly #forget: (value: T) => void;

  constructor(most: number, forget: (value: T) => void = () => {}) {
    this.#most = most;
    this.#forget = forget;
  }

  /** How many entries there are. */
  get size(): number {
    return this.#entries.size;
  }

  /** The entry of a key, made if it is not there. */
  get(key: Key, make: () => T): T {
    const known = this.#entries.get(key);
    const value = known ?? make();
    this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size > this.#most) {
      const [oldest, forgotten] = this.#entries.entries().next().value!;
      this.#entries.delete(oldest);
      this.#forget(forgotten);
    }
    return value;
  }
}

/** One direction of a layer in one mode, ready to be made into kernels. */
export interface CompiledProgram {
  readonly schedule: Schedule;
  /** What the kernel computes, for error messages. */
  readonly formula: string;
}

/** The tensors that a kernel has written. */
export interface KernelResults {
  readonly images: readonly tf.TensorInfo[];
  readonly vectors: readonly tf.TensorInfo[];
  /** What the forward pass keeps for the backward pass. */
  readonly saved: tf.TensorInfo;
}

/** How a backend runs a program on tensors by name: x, dy, vectors, `statistic<node>`, `saved`. */
export type RunProgram = (
  program: CompiledProgram,
  shape: KernelShape,
  imageShape: number[],
  inputs: ReadonlyMap<string, tf.TensorInfo>,
) => KernelResults;

/** A layer ready to run in one mode. */
export interface CompiledLayer extends Omit<LayerPrograms, "forward" | "backward"> {
  readonly parts: LayerParts;
  readonly mode: Mode;
  readonly epsilon: number;
  readonly forward: CompiledProgram;
  readonly backward: CompiledProgram;
}

/** Layers whose programs are kept: more than any model or population under evaluation uses at a time. */
const layers = new Recent<string, CompiledLayer>(256);

/** The compiled forms of a layer in memory, by mode and epsilon: deriving a layer's programs costs as much as running a small one. */
const known = new WeakMap<LayerParts, Map<string, CompiledLayer>>();

/** The compiled form of a layer; layers whose programs are equal share it, kernels included. */
export function compileLayer(parts: LayerParts, mode: Mode, epsilon: number): CompiledLayer {
  const forms = known.get(parts) ?? new Map<string, CompiledLayer>();
  const name = `${mode} ${epsilon}`;
  const form = forms.get(name) ?? derive(parts, mode, epsilon);
  known.set(parts, forms.set(name, form));
  return form;
}

function derive(parts: LayerParts, mode: Mode, epsilon: number): CompiledLayer {
  const programs = layerPrograms(parts, mode, epsilon);
  const moments = programs.moments.map(({ node, op }) => `${node}${op}`).join();
  const key = `${mode} ${epsilon} ${moments} ${JSON.stringify(programs.forward)} ${
    JSON.stringify(programs.backward)
  }`;
  return layers.get(key, () => {
    const text = formula(parts.graph) + (parts.post ? `, then ${formula(parts.post)}` : "");
    return {
      ...programs,
      parts,
      mode,
      epsilon,
      forward: { schedule: schedule(programs.forward), formula: text },
      backward: { schedule: schedule(programs.backward), formula: `gradient of ${text}` },
    };
  });
}

const secondGradients = new WeakMap<CompiledLayer, CompiledProgram>();

/** The gradient of a layer's backward program, derived when it is first asked for: training does without. */
export function secondGradient(layer: CompiledLayer): CompiledProgram {
  let program = secondGradients.get(layer);
  if (program === undefined) {
    const { parts, mode, epsilon, backward } = layer;
    program = {
      schedule: schedule(secondGradientProgram(parts, mode, epsilon)),
      formula: `gradient of ${backward.formula}`,
    };
    secondGradients.set(layer, program);
  }
  return program;
}
