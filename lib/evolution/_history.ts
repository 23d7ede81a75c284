import type { Draws } from "./draws.ts";
import { type Member, Population, tournament } from "./population.ts";
import type { CandidateRecord, Evaluation, Origin, StageOutcome } from "./record.ts";
import type { ResolvedSettings, Space } from "./settings.ts";

/** A candidate that was drawn and screened, and whose result is not in the history yet. */
export interface Proposal<G> {
  readonly index: number;
  readonly origin: Origin;
  readonly parent: number | null;
  readonly genotype: G;
  readonly encoded: string;
  readonly hash: string | null;
  readonly duplicateOf: number | null;
  /** Why it is rejected before any evaluation. */
  readonly screenedBy: string | null;
  readonly stages: readonly StageOutcome[];
}

/** A result as duplicates take it over. */
interface Outcome {
  readonly rejectedBy: string | null;
  readonly scores: readonly number[] | null;
}

/**
 * The state of a search: a pure function of the draws, the space, the settings and the results so far. Candidate `i`
 * is drawn from its own stream and from the population as it stood after `i - lookAhead + 1` results, whenever that is
 * done; so neither the order in which results arrive nor a restart can change a candidate.
 */
export class History<G> {
  readonly #draws: Draws;
  readonly #space: Space<G>;
  readonly #settings: ResolvedSettings;
  readonly #population: Population<G>;
  /** Of candidates that were evaluated, by index; duplicates take them. */
  readonly #outcomes: (Outcome | undefined)[] = [];
  /** First candidate of each hash, those without a result included. */
  readonly #seen = new Map<string, number>();
  readonly #waiting = new Map<number, Proposal<G>>();
  #committed = 0;
  #proposed = 0;

  constructor(draws: Draws, space: Space<G>, settings: ResolvedSettings) {
    this.#draws = draws;
    this.#space = space;
    this.#settings = settings;
    this.#population = new Population(settings.window, 2 * settings.lookAhead);
  }

  /** Results in the history. */
  get committed(): number {
    return this.#committed;
  }

  /** Candidates drawn so far, from the first. */
  get proposed(): number {
    return this.#proposed;
  }

  /** Members of the population now. */
  get population(): readonly Member<G>[] {
    return this.#population.asOf(this.#committed);
  }

  /** Whether the results that the next candidate is drawn from are in. */
  get canPropose(): boolean {
    return this.#committed >= this.#drawnAfter(this.#proposed);
  }

  /** The proposal whose result comes next. */
  get next(): Proposal<G> | undefined {
    return this.#waiting.get(this.#committed);
  }

  /** Draws the next candidate and says whether it needs an evaluation at all. */
  propose(): Proposal<G> {
    const index = this.#proposed++;
    const drawn = this.#draw(index);
    const space = this.#space;
    const settings = this.#settings;
    const stages: StageOutcome[] = [];
    const timed = <T>(name: string, compute: () => T): T => {
      const began = performance.now();
      const result = compute();
      stages.push({ name, work: 0, seconds: (performance.now() - began) / 1000 });
      return result;
    };
    const { screen, hash } = space;
    const screenedBy = settings.screen && screen ? timed("screen", () => screen(drawn.genotype)) : null;
    const known = screenedBy === null && settings.reuse && hash
      ? timed("hash", () => hash(drawn.genotype))
      : null;
    const duplicateOf = known === null ? null : this.#seen.get(known) ?? null;
    if (known !== null && duplicateOf === null) this.#seen.set(known, index);
    const proposal = {
      ...drawn,
      encoded: space.encode(drawn.genotype),
      hash: known,
      duplicateOf,
      screenedBy,
      stages,
    };
    this.#waiting.set(index, proposal);
    return proposal;
  }

  /** Enters the next proposal's result: `evaluation` where it needed one. */
  commit(evaluation: Evaluation | null): { record: CandidateRecord; member: Member<G> | null } {
    const proposal = this.next!;
    const { index, origin, parent, encoded, hash, duplicateOf, genotype } = proposal;
    const outcome = this.#outcomeOf(proposal, evaluation);
    const stages = evaluation === null ? proposal.stages : [...proposal.stages, ...evaluation.stages];
    const record = { index, origin, parent, genotype: encoded, hash, duplicateOf, ...outcome, stages };
    this.#waiting.delete(index);
    return { record, member: this.#enter(record, { index, genotype, scores: record.scores ?? [] }) };
  }

  /** Enters a record that was kept, instead of proposing its candidate once more. */
  restore(record: CandidateRecord): Member<G> | null {
    if (record.index !== this.#committed) {
      throw new RangeError(
        `Cannot go on with the journal as its records must be in order, next ${this.#committed}: current record is ${record.index}`,
      );
    }
    if (record.hash !== null && record.duplicateOf === null) this.#seen.set(record.hash, record.index);
    this.#proposed++;
    return this.#enter(record, keptMember(record, this.#space));
  }

  /**
   * Draws a restored candidate again, which must give what was kept: the seed, the space and the code are then those
   * of the search that kept it. Only the last `lookAhead` ones can be drawn again.
   */
  verify(record: CandidateRecord): void {
    const { origin, parent, genotype } = this.#draw(record.index);
    const encoded = this.#space.encode(genotype);
    if (encoded === record.genotype && origin === record.origin && parent === record.parent) return;
    throw new RangeError(
      `Cannot go on with the journal as drawing candidate ${record.index} again must give what was kept, ` +
        `${record.genotype}: current candidate is ${encoded}`,
    );
  }

  #outcomeOf({ screenedBy, duplicateOf }: Proposal<G>, evaluation: Evaluation | null): Outcome {
    if (screenedBy !== null) return { rejectedBy: screenedBy, scores: null };
    if (duplicateOf !== null) return this.#outcomes[duplicateOf]!;
    if ("scores" in evaluation!) return { rejectedBy: null, scores: [...evaluation.scores] };
    return { rejectedBy: evaluation!.rejectedBy, scores: null };
  }

  #enter(record: CandidateRecord, member: Member<G>): Member<G> | null {
    const { index, rejectedBy, scores, duplicateOf } = record;
    if (record.hash !== null && duplicateOf === null) this.#outcomes[index] = { rejectedBy, scores };
    this.#committed++;
    if (scores === null) return null;
    this.#population.add(member);
    return member;
  }

  #drawnAfter(index: number): number {
    return Math.max(0, index - this.#settings.lookAhead + 1);
  }

  #draw(index: number): Pick<Proposal<G>, "index" | "origin" | "parent" | "genotype"> {
    const { initialMembers, freshShare, criterion, tournamentShare } = this.#settings;
    const own = this.#draws.child(index);
    const population = this.#population.asOf(this.#drawnAfter(index));
    // Fresh genotypes have draws of their own: the one of a number is the same whatever the settings and results are,
    // so that searches with and without rejection, evolved and random, meet the same ones.
    const fresh = (origin: Origin) => {
      return { index, origin, parent: null, genotype: this.#space.fresh(own.child("fresh")) };
    };
    if (population.length < initialMembers) return fresh("initial");
    if (own.float() < freshShare) return fresh("fresh");
    const draws = own.child("offspring");
    const won = tournament(population, draws, criterion, tournamentShare);
    const genotype = this.#space.mutate(won.genotype, draws);
    return { index, origin: "offspring", parent: won.index, genotype };
  }
}

/** A member out of a journal: most of them are never looked at again, so its genotype is decoded when it is. */
function keptMember<G>({ index, scores, genotype: text }: CandidateRecord, space: Space<G>): Member<G> {
  let decoded: { readonly genotype: G } | undefined;
  return {
    index,
    scores: scores ?? [],
    get genotype() {
      return (decoded ??= { genotype: space.decode(text) }).genotype;
    },
  };
}
