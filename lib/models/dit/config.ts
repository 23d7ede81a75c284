/** Reading config.json of a model: what is not as it must be is refused, as a file from elsewhere is hostile. */

/** The members of config.json. */
export type RawConfig = Readonly<Record<string, unknown>>;

/** Numbers beyond any published model, which would only make memory run out. */
const MOST = 1 << 20;

/** Reads members of one config, and names it in errors. */
export class ConfigReader {
  readonly #raw: RawConfig;
  readonly #model: string;

  constructor(raw: RawConfig, model: string) {
    if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
      throw new TypeError(`Cannot make ${model} as its config must be an object: current config is ${raw}`);
    }
    this.#raw = raw;
    this.#model = model;
  }

  /** A whole number of at least 1; `fallback` where the member is missing or null. */
  size(name: string, fallback?: number): number {
    const value = this.#member(name) ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MOST) {
      return value as number;
    }
    throw this.#refused(name, `a whole number from 1 to ${MOST}`, value);
  }

  sizes(name: string): number[] {
    const value = this.#member(name);
    if (
      Array.isArray(value) && value.length > 0 && value.length <= 16 &&
      value.every((size) => Number.isSafeInteger(size) && size >= 1 && size <= MOST)
    ) return value;
    throw this.#refused(name, "an array of whole numbers above 0", value);
  }

  /** A positive finite number. */
  number(name: string, fallback?: number): number {
    const value = this.#member(name) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    throw this.#refused(name, "a number above 0", value);
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.#member(name) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#refused(name, "true or false", value);
  }

  has(name: string): boolean {
    return this.#member(name) !== undefined;
  }

  /** Refuses a config that asks for what the kit does not have; a missing member is as `known` says. */
  only(name: string, known: readonly unknown[]): void {
    const value = this.#member(name);
    if (value === undefined || known.includes(value)) return;
    throw this.#refused(name, known.map((one) => JSON.stringify(one)).join(" or "), value);
  }

  #member(name: string): unknown {
    return Object.hasOwn(this.#raw, name) ? this.#raw[name] ?? undefined : undefined;
  }

  #refused(name: string, wanted: string, value: unknown): RangeError {
    const text = JSON.stringify(value)?.slice(0, 80) ?? "missing";
    return new RangeError(
      `Cannot make ${this.#model} as '${name}' of its config must be ${wanted}: current ${name} is ${text}`,
    );
  }
}
