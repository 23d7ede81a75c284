import { type Draws, subset } from "./draws.ts";
import { type Criterion, tournamentSize, winner } from "./selection.ts";

/** A candidate that passed every test. */
export interface Member<G> {
  /** Its number in the history. */
  readonly index: number;
  /** What was accepted. */
  readonly genotype: G;
  /** One per anchor, larger is better. */
  readonly scores: readonly number[];
}

/**
 * The newest `window` accepted candidates. One that is rejected does not enter and removes nobody; the oldest leaves
 * when the window is full, however good it is. It can be looked at as it stood up to `memory` results ago, which is
 * what lets candidates be drawn before their predecessors' results are in.
 */
export class Population<G> {
  readonly #window: number;
  readonly #memory: number;
  #members: Member<G>[] = [];

  /** `window`: its largest size; `memory`: how many results ago {@link asOf} may ask for. */
  constructor(window: number, memory = 0) {
    this.#window = window;
    this.#memory = memory;
  }

  /** Adds the newest member. */
  add(member: Member<G>): void {
    this.#members.push(member);
    // Trimmed now and then: moving the whole array for every member would cost the window's length each time.
    const kept = this.#window + this.#memory;
    if (this.#members.length > 2 * kept) this.#members = this.#members.slice(-kept);
  }

  /** The population, oldest first, as it stood when the results of the candidates below `results` were in. */
  asOf(results: number): readonly Member<G>[] {
    let end = this.#members.length;
    while (end > 0 && this.#members[end - 1]!.index >= results) end--;
    return this.#members.slice(Math.max(0, end - this.#window), end);
  }
}

/**
 * The winner of a tournament: `share` of the population drawn at random, without replacement, then the best of them by
 * the criterion.
 */
export function tournament<G>(
  population: readonly Member<G>[],
  draws: Draws,
  criterion: Criterion,
  share = 0.05,
): Member<G> {
  const size = Math.min(population.length, tournamentSize(population.length, share));
  const drawn = subset(draws, size, population.length).map((place) => population[place]!);
  return drawn[winner(drawn.map(({ scores }) => scores), criterion, draws.float())]!;
}
