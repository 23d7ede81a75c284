/** Listing the parameters of a model. */
import type { ParameterSpec, ParameterSpecs } from "./types.ts";

/** Collects specs under their full names. */
export class SpecList {
  readonly #specs: Map<string, ParameterSpec>;
  readonly #prefix: string;

  constructor(specs = new Map<string, ParameterSpec>(), prefix = "") {
    this.#specs = specs;
    this.#prefix = prefix;
  }

  get all(): ParameterSpecs {
    return this.#specs;
  }

  /** The same list, with `name.` before each name. */
  in(name: string): SpecList {
    return new SpecList(this.#specs, `${this.#prefix}${name}.`);
  }

  plain(name: string, shape: readonly number[]): this {
    this.#specs.set(this.#prefix + name, { shape, layout: "plain" });
    return this;
  }

  /** `name.weight` [out, ...in] and `name.bias` [out]. */
  linear(name: string, input: number | readonly number[], output: number, bias = true): this {
    const shape = [output, ...(typeof input === "number" ? [input] : input)];
    this.#specs.set(`${this.#prefix}${name}.weight`, { shape, layout: "linear" });
    return bias ? this.plain(`${name}.bias`, [output]) : this;
  }

  /** `name.weight` [out, in, size, size] and `name.bias` [out]. */
  convolution(name: string, input: number, output: number, size: number): this {
    this.#specs.set(`${this.#prefix}${name}.weight`, {
      shape: [output, input, size, size],
      layout: "convolution",
    });
    return this.plain(`${name}.bias`, [output]);
  }

  /** `name.weight` and `name.bias`, [size]; nothing with `affine` false. */
  norm(name: string, size: number, affine = true): this {
    return affine ? this.plain(`${name}.weight`, [size]).plain(`${name}.bias`, [size]) : this;
  }

  /** Two linear layers. */
  mlp(name: string, input: number, hidden: number, output = hidden): this {
    this.in(name).linear("linear_1", input, hidden).linear("linear_2", hidden, output);
    return this;
  }

  /** The feed-forward of diffusers: `name.net.0.proj`, `name.net.2`. */
  feedForward(name: string, width: number, hidden: number): this {
    this.in(name).linear("net.0.proj", width, hidden).linear("net.2", hidden, width);
    return this;
  }

  /** Projections of an attention of `width` channels to keys of `context` channels; with `normDim` norms of q and k. */
  attention(
    name: string,
    { width, context = width, bias = true, normDim }: {
      width: number;
      context?: number;
      bias?: boolean;
      normDim?: number;
    },
  ): this {
    const own = this.in(name);
    if (normDim !== undefined) own.norm("norm_q", normDim).norm("norm_k", normDim);
    own.linear("to_q", width, width, bias).linear("to_k", context, width, bias).linear(
      "to_v",
      context,
      width,
      bias,
    );
    own.linear("to_out.0", width, width);
    return this;
  }
}
