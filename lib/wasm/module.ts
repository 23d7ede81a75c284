import { type Code, type Local, sequence, typeCodes, type ValueType } from "./instructions.ts";
import { Writer } from "./_writer.ts";

/** A function under construction: declare variables, add code. It has one variable for each of its parameters. */
export class FunctionBuilder<Params extends readonly ValueType[] = readonly ValueType[]> {
  /** Its place in the module, for `call`. */
  readonly index: number;
  readonly params: { readonly [Index in keyof Params]: Local };
  readonly results: readonly ValueType[];
  readonly #locals: ValueType[] = [];
  readonly #body: Code[] = [];

  constructor(index: number, params: Params, results: readonly ValueType[]) {
    this.index = index;
    this.params = params.map((type, at): Local => ({ index: at, type })) as typeof this.params;
    this.results = results;
  }

  /** A new variable, zero at the start. */
  local(type: ValueType): Local {
    this.#locals.push(type);
    return { index: this.params.length + this.#locals.length - 1, type };
  }

  /** Appends instructions. */
  add(...codes: readonly Code[]): void {
    this.#body.push(...codes);
  }

  /** The function's entry in the code section, without its length. */
  write(out: Writer): void {
    const runs: { type: ValueType; count: number }[] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    out.unsigned(runs.length);
    for (const { type, count } of runs) {
      out.unsigned(count);
      out.byte(typeCodes[type]);
    }
    sequence(...this.#body)(out);
    out.byte(0x0b);
  }
}

/** New variables of a function by their names. */
export function variables<Name extends string>(
  kernel: FunctionBuilder,
  type: ValueType,
  ...names: readonly Name[]
): Record<Name, Local> {
  return Object.fromEntries(names.map((name) => [name, kernel.local(type)])) as Record<Name, Local>;
}

/**
 * Builds the bytes of a WebAssembly module whose functions work on a memory that is handed to it.
 *
 * ```ts
 * import { f32x4, ModuleBuilder, v128 } from "./mod.ts";
 *
 * const module = new ModuleBuilder();
 * const double = module.function("double", ["i32"]);
 * const [address] = double.params;
 * double.add(v128.store(address, f32x4.add(v128.load(address), v128.load(address))));
 * const memory = new WebAssembly.Memory({ initial: 1 });
 * new Float32Array(memory.buffer).set([1, 2, 3, 4]);
 * const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } });
 * (exports.double as (address: number) => void)(0);
 * console.log(new Float32Array(memory.buffer, 0, 4)); // 2, 4, 6, 8
 * ```
 */
export class ModuleBuilder {
  readonly #functions: { name: string | undefined; built: FunctionBuilder }[] = [];

  /** A new function, exported if it has a name. */
  function<const Params extends readonly ValueType[]>(
    name: string | undefined,
    params: Params,
    results: readonly ValueType[] = [],
  ): FunctionBuilder<Params> {
    const built = new FunctionBuilder(this.#functions.length, params, results);
    this.#functions.push({ name, built });
    return built;
  }

  /**
   * The module in the binary format. It imports `env.memory`, which must have at least so many pages of 64 KiB. V8 checks an access
   * whose constant offset is below that with fewer instructions.
   */
  bytes(pages = 1): Uint8Array<ArrayBuffer> {
    const out = new Writer();
    out.bytes([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    const functions = this.#functions.map(({ built }) => built);
    const named = this.#functions.filter(({ name }) => name !== undefined);
    section(out, 1, (body) => {
      list(body, functions, ({ params, results }) => {
        body.byte(0x60);
        list(body, params, ({ type }) => body.byte(typeCodes[type]));
        list(body, results, (type) => body.byte(typeCodes[type]));
      });
    });
    section(out, 2, (body) => {
      body.unsigned(1);
      body.name("env");
      body.name("memory");
      body.bytes([2, 0]);
      body.unsigned(pages);
    });
    section(out, 3, (body) => list(body, functions, ({ index }) => body.unsigned(index)));
    section(out, 7, (body) =>
      list(body, named, ({ name, built }) => {
        body.name(name!);
        body.byte(0);
        body.unsigned(built.index);
      }));
    section(out, 10, (body) =>
      list(body, functions, (built) => {
        const code = new Writer();
        built.write(code);
        body.unsigned(code.size);
        body.bytes(code.view());
      }));
    return out.view().slice();
  }
}

function section(out: Writer, id: number, write: (body: Writer) => void): void {
  const body = new Writer();
  write(body);
  out.byte(id);
  out.unsigned(body.size);
  out.bytes(body.view());
}

function list<T>(out: Writer, members: readonly T[], write: (member: T) => void): void {
  out.unsigned(members.length);
  for (const member of members) write(member);
}
