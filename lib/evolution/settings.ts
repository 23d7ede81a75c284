import type { Draws } from "./draws.ts";
import type { Criterion } from "./selection.ts";

/** What is searched: how candidates are drawn, mutated, written down, and told apart. */
export interface Space<G> {
  /** A new random genotype. */
  fresh(draws: Draws): G;
  /** The offspring of a winner, which it leaves as it is. */
  mutate(parent: G, draws: Draws): G;
  /** The genotype as text; equal genotypes give equal texts. */
  encode(genotype: G): string;
  /** The genotype that a text stands for. */
  decode(text: string): G;
  /** Why a genotype is rejected before anything is computed, or null. */
  screen?(genotype: G): string | null;
  /** Of what a genotype computes: equal hashes are never evaluated twice. */
  hash?(genotype: G): string;
}

/**
 * How the search moves through the space. The defaults are the paper's where it says so ("Evolving
 * Normalization-Activation Layers", section 4); the others say why they were chosen.
 */
export interface SearchSettings {
  /** Default `pareto`, the paper's. An anchor is given by its index. */
  readonly criterion?: Criterion;
  /** Share of the population in a tournament. Default 0.05, the paper's. */
  readonly tournamentShare?: number;
  /** Newest accepted candidates that form the population. Default 2,500, the paper's. */
  readonly window?: number;
  /**
   * Candidates are random until so many were accepted. Default 20: the smallest population of which 5% is a member.
   * The paper does not say how its population starts.
   */
  readonly initialMembers?: number;
  /** Probability that an offspring is replaced by a new random genotype. Default 0.5, the paper's. 1: random search. */
  readonly freshShare?: number;
  /**
   * Candidates that may be under way at once: the `k`-th (from 1) is drawn from the population as it stood after
   * `k - lookAhead` results. Part of what decides the history, and so independent of the number of workers, of which
   * more than this stay idle. Default 8: room for 8 workers, while a population of 2,500 hardly notices 7 results.
   */
  readonly lookAhead?: number;
  /** Whether the space's `screen` is used. Default true. */
  readonly screen?: boolean;
  /**
   * Whether a candidate with a known hash takes the known result, and enters the population with it if it was
   * accepted (a mutation that changes nothing but dead nodes is a step too). Default true; false evaluates it again.
   * How the paper treats duplicates is not known.
   */
  readonly reuse?: boolean;
}

/** Settings with their defaults filled in. */
export type ResolvedSettings = Required<SearchSettings>;

/**
 * When a search ends: when the first of these is used up. All but `elapsedSeconds` count what the journal keeps,
 * earlier runs included. Seconds differ between machines, so a budget in seconds ends at another place each time; the
 * history up to there is the same, the shorter one a prefix of the longer.
 */
export interface Budget {
  /** Results in the history, of whatever kind. */
  readonly candidates?: number;
  /** Candidates evaluated: neither screened out nor duplicates. */
  readonly evaluations?: number;
  /** Deterministic cost, in the unit of the evaluation. */
  readonly work?: number;
  /** Measured cost, summed over workers. */
  readonly seconds?: number;
  /** The clock on the wall, from the start of this call. */
  readonly elapsedSeconds?: number;
}

/** Settings with defaults. @throws {RangeError} One is out of range. */
export function resolveSettings(settings: SearchSettings, anchors: number): ResolvedSettings {
  const resolved: ResolvedSettings = {
    criterion: "pareto",
    tournamentShare: 0.05,
    window: 2500,
    initialMembers: 20,
    freshShare: 0.5,
    lookAhead: 8,
    screen: true,
    reuse: true,
    ...settings,
  };
  const { window, initialMembers, lookAhead, tournamentShare, freshShare, criterion } = resolved;
  whole("window", window, 1);
  whole("initialMembers", initialMembers, 1, window);
  whole("lookAhead", lookAhead, 1, 10_000);
  share("tournamentShare", tournamentShare);
  share("freshShare", freshShare);
  if (typeof criterion === "object") whole("criterion.anchor", criterion.anchor, 0, anchors - 1);
  return resolved;
}

/** @throws {RangeError} No budget at all, or one that is not a positive number. */
export function requireBudget(budget: Budget): void {
  const limits = Object.entries(budget).filter(([, limit]) => limit !== undefined);
  if (limits.length === 0) {
    throw new RangeError(
      "Cannot search as the budget must limit candidates, evaluations, work or seconds: current budget is {}",
    );
  }
  for (const [name, limit] of limits) {
    if (!(limit > 0)) {
      throw new RangeError(`Cannot search as budget.${name} must be above 0: current ${name} is ${limit}`);
    }
  }
}

/** @throws {RangeError} `value` is not a whole number from `least` to `most`. */
export function whole(name: string, value: number, least: number, most = Infinity): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  const range = most === Infinity ? `from ${least}` : `from ${least} to ${most}`;
  throw new RangeError(
    `Cannot search as ${name} must be a whole number ${range}: current ${name} is ${value}`,
  );
}

function share(name: string, value: number): void {
  if (value >= 0 && value <= 1) return;
  throw new RangeError(`Cannot search as ${name} must be from 0 to 1: current ${name} is ${value}`);
}

/** JSON with sorted keys, so that equal settings give equal texts. */
export function sortedJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_, part: unknown) =>
      typeof part === "object" && part !== null && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
        : part,
  );
}
