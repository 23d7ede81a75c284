/** Reading the settings of a scheduler_config.json: what is unknown or unsupported is named. */

/** Text of a value for a message. */
function show(value: unknown): string {
  return typeof value === "number" ? String(value) : JSON.stringify(value) ?? String(value);
}

/** The settings of one config, each read once; what was read is the label of the scheduler. */
export class Settings {
  readonly #name: string;
  readonly #config: Readonly<Record<string, unknown>>;
  readonly #seen = new Set<string>();
  readonly #read: [name: string, value: unknown][] = [];

  constructor(name: string, config: Readonly<Record<string, unknown>>) {
    this.#name = name;
    this.#config = config;
  }

  /** The class with every setting that was read. */
  get label(): string {
    return `${this.#name}(${this.#read.map(([name, value]) => `${name}=${show(value)}`).join(", ")})`;
  }

  /** Settings that nothing has asked for. */
  get ignored(): string[] {
    return Object.keys(this.#config).filter((name) => !name.startsWith("_") && !this.#seen.has(name));
  }

  /** A finite number, at least `least`. */
  number(name: string, missing: number, least = -Infinity): number {
    const value = this.#value(name, missing);
    if (typeof value !== "number") throw this.#wrong(TypeError, name, "a number", value);
    if (!(Number.isFinite(value) && value >= least)) {
      throw this.#wrong(
        RangeError,
        name,
        least === -Infinity ? "finite" : `a finite number from ${least}`,
        value,
      );
    }
    return this.#keep(name, value);
  }

  /** A whole number, at least `least`. */
  whole(name: string, missing: number, least: number): number {
    const value = this.number(name, missing, least);
    if (!Number.isSafeInteger(value)) throw this.#wrong(RangeError, name, "a whole number", value);
    return value;
  }

  flag(name: string, missing: boolean): boolean {
    const value = this.#value(name, missing);
    if (typeof value !== "boolean") throw this.#wrong(TypeError, name, "true or false", value);
    return this.#keep(name, value);
  }

  choice<T extends string>(name: string, missing: T, supported: readonly T[]): T {
    const value = this.#value(name, missing);
    if (typeof value !== "string") throw this.#wrong(TypeError, name, "text", value);
    if (!supported.includes(value as T)) {
      throw this.#wrong(RangeError, name, supported.map(show).join(" or "), value);
    }
    return this.#keep(name, value as T);
  }

  /** Settings that must have the one value that is supported, which is also what they are when missing. */
  only(required: Readonly<Record<string, unknown>>): void {
    for (const [name, supported] of Object.entries(required)) {
      const value = this.#value(name, supported);
      if (value !== supported) throw this.#wrong(RangeError, name, show(supported), value);
    }
  }

  /** Settings that the class has but that do nothing without one that is unsupported. */
  unused(...names: string[]): void {
    for (const name of names) this.#seen.add(name);
  }

  /** Adds what is no setting of the config to the label. */
  add(name: string, value: unknown): void {
    this.#keep(name, value);
  }

  /** @throws {RangeError} saying what `name` must be */
  refuse(name: string, requirement: string): never {
    throw this.#wrong(RangeError, name, requirement, this.#config[name]);
  }

  #value(name: string, missing: unknown): unknown {
    this.#seen.add(name);
    const value = Object.hasOwn(this.#config, name) ? this.#config[name] : missing;
    // As JSON has no such numbers, some files spell them as text.
    return value === "Infinity" || value === "-Infinity" ? Number(value) : value;
  }

  #keep<T>(name: string, value: T): T {
    if (!this.#read.some(([known]) => known === name)) this.#read.push([name, value]);
    return value;
  }

  #wrong(
    kind: new (message: string) => Error,
    name: string,
    requirement: string,
    value: unknown,
  ): Error {
    return new kind(
      `Cannot make ${this.#name} as '${name}' must be ${requirement}: current ${name} is ${show(value)}`,
    );
  }
}
