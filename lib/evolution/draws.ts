/**
 * Where the search takes its random numbers from. The kit's counter-based streams (`stream(seed)` of the tensor room)
 * have this form as they are. A child must depend on the names from the root alone, not on what was drawn.
 */
export interface Draws {
  /** One number uniform in [0, 1). */
  float(): number;
  /** `n` integers uniform in [0, below). */
  integers(n: number, below: number): ArrayLike<number>;
  /** The draws of that name below this one, at their start. */
  child(name: string | number): Draws;
}

/** One integer uniform in [0, below). */
export function integerBelow(draws: Draws, below: number): number {
  return draws.integers(1, below)[0]!;
}

/** One element, all equally likely. */
export function oneOf<T>(draws: Draws, choices: readonly T[]): T {
  return choices[integerBelow(draws, choices.length)]!;
}

/**
 * `count` different integers of [0, below) in ascending order, every subset equally likely (Floyd's algorithm: `count`
 * draws whatever `below` is).
 */
export function subset(draws: Draws, count: number, below: number): number[] {
  const chosen = new Set<number>();
  for (let last = below - count; last < below; last++) {
    const drawn = integerBelow(draws, last + 1);
    chosen.add(chosen.has(drawn) ? last : drawn);
  }
  return [...chosen].sort((a, b) => a - b);
}
