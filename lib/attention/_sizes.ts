/** Checks of sizes, and names for what is in an array. */

/**
 * @throws {TypeError} if a value is not a number
 * @throws {RangeError} if one is not whole, or below `least`
 */
export function requireSizes(cannot: string, values: Readonly<Record<string, number>>, least = 1): void {
  for (const [name, value] of Object.entries(values)) {
    const must = `Cannot ${cannot} as '${name}' must be a whole number of at least ${least}`;
    if (typeof value !== "number") throw new TypeError(`${must}: current ${name} is ${value}`);
    if (!Number.isSafeInteger(value) || value < least) {
      throw new RangeError(`${must}: current ${name} is ${value}`);
    }
  }
}

/** 16 hexadecimal digits that stand for the bytes (FNV-1a, twice from different starts). */
export function contentHash(bytes: Uint8Array): string {
  let [low, high] = [0x811c9dc5, 0x9747b28c];
  for (const byte of bytes) {
    low = Math.imul(low ^ byte, 0x01000193);
    high = Math.imul(high ^ byte, 0x01000193) ^ (high >>> 15);
  }
  return [low, high].map((part) => (part >>> 0).toString(16).padStart(8, "0")).join("");
}

/** 0.03125 as "3.1%". */
export function percent(share: number): string {
  const value = 100 * share;
  return `${
    value >= 10 || Number.isInteger(value) ? Number(value.toFixed(1)) : Number(value.toPrecision(2))
  }%`;
}
