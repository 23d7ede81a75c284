/** One shader in the making: its buffers, its functions, and the rows of numbers that its code reads. */
import type { KernelShape } from "./_wasm_layout.ts";
import { isArithmetic, type Plan } from "./_wgsl_plan.ts";
import { literal, WgslMath } from "./_wgsl_math.ts";
import { type Elementwise, isReduction, type Program, type Value } from "./value.ts";

/** How a shader uses a buffer. */
export type Access = "read" | "read_write";

/** A buffer that a dispatch binds: an image, a vector, or one of the kernel's own. */
export interface WgslBinding {
  /** `x`, `dy`, a vector's name, `out:` and the name of what is written; `rows`, `partials`, `saved`. */
  readonly name: string;
  readonly access: Access;
}

/** Everything that writing a shader needs to know. */
export interface ShaderContext {
  readonly program: Program;
  readonly plan: Plan;
  readonly shape: KernelShape;
  readonly geometry: Geometry;
  /** Where vectors lie among the rows, if they are too many to be bound one by one: offsets by name. */
  readonly packed: ReadonlyMap<string, number> | null;
}

/** How the pixels and channels of a sample are divided among workgroups and their threads. */
export interface Geometry {
  /** Neighbouring channels of a workgroup, one thread each, and how many such blocks there are. */
  readonly lanes: number;
  readonly blocks: number;
  /** Pixels that a workgroup works on side by side. */
  readonly rows: number;
  /** Pixels per workgroup, and how many such chunks a sample has. */
  readonly chunk: number;
  readonly chunks: number;
}

/** Most workgroups along one dimension of a dispatch. */
export const MOST_GROUPS = 65535;
/** Most arrays of a number per thread that a workgroup shares: half of the least memory that WebGPU guarantees. */
export const MOST_SHARED = 8;
const MOST_LANES = 64, MOST_THREADS = 256;
/** Each thread should have a few pixels, as long as there are enough workgroups to fill a large GPU. */
const LEAST_PIXELS = 8, ENOUGH_GROUPS = 1024;

/** Divides the work of a pass. */
export function geometryOf({ samples, pixels, channels }: KernelShape): Geometry {
  const blocks = Math.ceil(channels / MOST_LANES);
  const lanes = Math.ceil(channels / blocks);
  const rows = Math.min(pixels, Math.max(1, Math.floor(MOST_THREADS / lanes)));
  const wanted = Math.max(1, Math.ceil(ENOUGH_GROUPS / (samples * blocks)));
  const most = Math.max(1, Math.floor(pixels / (rows * LEAST_PIXELS)));
  const chunk = Math.ceil(pixels / Math.min(wanted, most, MOST_GROUPS));
  return { lanes, blocks, rows, chunk, chunks: Math.ceil(pixels / chunk) };
}

/** A list in pieces of at most so many. */
export function inBatches<T>(list: readonly T[], most: number): T[][] {
  return Array.from(
    { length: Math.ceil(list.length / most) },
    (_, at) => list.slice(at * most, (at + 1) * most),
  );
}

/** Grows the text of a shader. */
export class Shader {
  readonly context: ShaderContext;
  readonly math: WgslMath;
  readonly #bindings = new Map<string, Access>();
  readonly #body: string[] = [];
  readonly #shared = new Map<string, string>();
  #names = 0;

  constructor(context: ShaderContext) {
    this.context = context;
    this.math = new WgslMath(context.program.epsilon);
  }

  /** The buffers used, in the order of their bindings. */
  get bindings(): WgslBinding[] {
    return [...this.#bindings].map(([name, access]) => ({ name, access }));
  }

  /** Adds lines to the body of the entry point. */
  add(...lines: readonly string[]): void {
    this.#body.push(...lines);
  }

  /** A fresh name. */
  name(stem: string): string {
    return `${stem}${this.#names++}`;
  }

  /** The variable of a buffer; a buffer that is written anywhere is bound for writing. */
  buffer(name: string, access: Access = "read"): string {
    if (access === "read_write" || !this.#bindings.has(name)) this.#bindings.set(name, access);
    return `b_${name.replace("out:", "out_")}`;
  }

  /** Memory that a workgroup shares. */
  shared(name: string, size: number): string {
    this.#shared.set(name, `var<workgroup> ${name}: array<f32, ${size}>;`);
    return name;
  }

  /** Adds a value's definition. */
  let(stem: string, expression: string, lines: string[]): string {
    const name = this.name(stem);
    lines.push(`let ${name} = ${expression};`);
    return name;
  }

  /** The whole text, for workgroups of so many threads. */
  text(threads: number): string {
    return [
      ...this.bindings.map(({ name, access }, index) =>
        `@group(0) @binding(${index}) var<storage, ${access}> ${this.buffer(name)}: array<f32>;`
      ),
      ...this.#shared.values(),
      this.math.text(),
      `@compute @workgroup_size(${threads})`,
      "fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {",
      ...this.#body,
      "}",
      "",
    ].join("\n");
  }
}

/** Rows of one sample and channel, each read or computed where it is first asked for. */
export class RowReader {
  readonly #shader: Shader;
  readonly #lines: string[];
  readonly #sample: string;
  readonly #channel: string;
  readonly #known = new Map<number, string>();

  /** Appends definitions to `lines`; `sample` and `channel` are expressions. */
  constructor(shader: Shader, lines: string[], sample: string, channel: string) {
    this.#shader = shader;
    this.#lines = lines;
    this.#sample = sample;
    this.#channel = channel;
  }

  /** An expression of a row's number. */
  read(index: number): string {
    const known = this.#known.get(index);
    if (known !== undefined) return known;
    const value = this.#value(index);
    if (value.op === "Constant") return literal(value.constant!);
    const name = this.#shader.let("r", this.#expression(index, value), this.#lines);
    this.#known.set(index, name);
    return name;
  }

  #value(index: number): Value {
    return this.#shader.context.program.values[index]!;
  }

  #expression(index: number, value: Value): string {
    const { plan, packed, program } = this.#shader.context;
    if (plan.places.has(index)) return rowAt(this.#shader, index, this.#sample, this.#channel);
    if (value.op === "Input") {
      if (packed === null) return `${this.#shader.buffer(value.name!)}[${this.#channel}]`;
      return `${this.#shader.buffer("rows")}[${packed.get(value.name!)!}u + ${this.#channel}]`;
    }
    const inputs = value.inputs.map((input) => this.read(input)) as [string, ...string[]];
    if (isReduction(value.op)) {
      if (!isArithmetic(program.values, index)) throw new Error(`value ${index} is not made yet`);
      return this.#arithmetic(value, inputs[0]);
    }
    return this.#shader.math.apply(value.op as Elementwise, inputs);
  }

  /** A reduction along dimensions in which its argument does not vary. */
  #arithmetic({ op }: Value, input: string): string {
    const { samples, pixels } = this.#shader.context.shape;
    switch (op) {
      case "meanSquare":
        return `${input} * ${input}`;
      case "variance": // 0, or NaN where the argument is not finite
        return this.#shader.math.call("zero_if_finite", input);
      case "sum":
        return `${input} * ${literal(samples * pixels)}`;
      default:
        return input;
    }
  }
}

/** The place of a stored row's number in its buffer. */
export function rowAt(
  shader: Shader,
  index: number,
  sample: string,
  channel: string,
  access: Access = "read",
): string {
  const { plan, shape } = shader.context;
  const { buffer, offset, perSample } = plan.places.get(index)!;
  const base = perSample ? `${offset}u + ${sample} * ${shape.channels}u` : `${offset}u`;
  return `${shader.buffer(buffer, access)}[${base} + ${channel}]`;
}
