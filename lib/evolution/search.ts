import type { Draws } from "./draws.ts";
import { History, type Proposal } from "./_history.ts";
import { type SearchProgress, Tally } from "./_progress.ts";
import { type Journal, MemoryJournal } from "./journal.ts";
import { type CandidateRecord, type Evaluation, ownStages, type RecordNames } from "./record.ts";
import {
  type Budget,
  requireBudget,
  type ResolvedSettings,
  resolveSettings,
  type SearchSettings,
  sortedJson,
  type Space,
  whole,
} from "./settings.ts";

/** A candidate as its evaluation sees it. */
export interface Candidate<G> {
  /** Its number in order of submission, from 0. */
  readonly index: number;
  /** What is to be scored. */
  readonly genotype: G;
  /** Null where the space has no hash, or it is not used. */
  readonly hash: string | null;
}

/** What to search, how, and for how long. */
export interface SearchOptions<G> extends RecordNames {
  /** The root of all draws: `stream(seed)` of the tensor room, or a child of it. */
  readonly draws: Draws;
  /** What is searched: {@link graphSpace} for layers. */
  readonly space: Space<G>;
  /**
   * What else decides the history: the seed, the options of the space, the task. Written into the journal, which
   * refuses to go on under another one.
   */
  readonly identity: Readonly<Record<string, unknown>>;
  /**
   * Scores a candidate, or says which test rejected it, and what each stage cost. Must depend on nothing but the
   * candidate (its seed may come from the index or the hash), apart from measured seconds. Limits of time and memory
   * are its own business: it reports them as `rejectedBy`. What it throws ends the search.
   */
  evaluate(candidate: Candidate<G>, signal: AbortSignal): Evaluation | Promise<Evaluation>;
  /** When it ends. A later call with a larger budget and the same journal goes on. */
  readonly budget: Budget;
  /** How it moves. Default: the paper's search. */
  readonly settings?: SearchSettings;
  /** Evaluations at once, at most `lookAhead`. Default: that many. Does not change the history. */
  readonly workers?: number;
  /** Default: in memory. */
  readonly journal?: Journal;
  /** Seconds between writings to the journal; what a killed search loses at most. Default 5. */
  readonly journalSeconds?: number;
  /** Where the search stands: a few times per second, and at the end. */
  readonly onProgress?: (progress: SearchProgress<G>) => void;
  /** Stops the search: its results so far are in the journal, and the reason is thrown. */
  readonly signal?: AbortSignal;
}

/** What a search gives back; everything else is in its journal. */
export interface SearchResult<G> {
  /** The budget that was used up; `exhausted` if nothing new was found for very long. */
  readonly ended: keyof Budget | "exhausted";
  /** Counts, best, and Pareto front at the end. */
  readonly progress: SearchProgress<G>;
}

/** So many candidates in a row without one to evaluate: the space holds nothing else. */
const EXHAUSTED = 10_000;
/** Milliseconds between progress reports. */
const PROGRESS_INTERVAL = 200;
/** Records that are written to the journal at once. */
const BATCH = 1024;
/** Milliseconds of computing after which timers and signals get their turn. */
const TURN = 50;

/**
 * Evolution by tournaments and ageing, or random search, over any space. The history is a pure function of the draws,
 * the space, the evaluation and the settings: results enter in order of submission, and every candidate is drawn from
 * the population as it stood a fixed number of results earlier. So any number of workers, killed or not, makes the
 * same history, and a journal is enough to go on.
 *
 * @throws {RangeError} Options out of range, or a journal of another search.
 * @throws What `evaluate` throws, and the signal's reason.
 */
export function search<G>(options: SearchOptions<G>): Promise<SearchResult<G>> {
  return new Search(options).run();
}

/** All that decides a history, as JSON with sorted keys. */
export function searchIdentity<G>(
  options: Pick<SearchOptions<G>, "identity" | "settings" | "anchors" | "stages">,
): string {
  const { identity, anchors, stages } = options;
  return sortedJson({
    ...identity,
    anchors,
    stages,
    settings: resolveSettings(options.settings ?? {}, anchors.length),
  });
}

/** One call of {@link search}. */
class Search<G> {
  readonly #options: SearchOptions<G>;
  readonly #settings: ResolvedSettings;
  readonly #history: History<G>;
  readonly #journal: Journal;
  readonly #workers: number;
  readonly #tally = new Tally<G>();
  readonly #began = performance.now();
  /** Candidates to evaluate, in order. */
  readonly #queue: Proposal<G>[] = [];
  readonly #results = new Map<number, Evaluation>();
  readonly #stop = new AbortController();
  readonly #unsaved: CandidateRecord[] = [];
  /** What earlier runs had counted: the rate is that of this call. */
  #restored = { candidates: 0, evaluations: 0, work: 0, seconds: 0 };
  #running = 0;
  /** Evaluations started whose result is not in the history. */
  #open = 0;
  #failure: { readonly error: unknown } | undefined;
  /** Ends the pause that goes on, or else the next one: what happens between two pauses is not missed. */
  #wake = () => {
    this.#awake = true;
    this.#resume();
  };
  #awake = false;
  #resume = () => {};
  #saved = performance.now();
  #reported = -Infinity;

  constructor(options: SearchOptions<G>) {
    const { draws, space, budget, anchors, stages, settings = {} } = options;
    requireNames("anchors", anchors);
    requireNames("stages", stages);
    requireBudget(budget);
    this.#options = options;
    this.#settings = resolveSettings(settings, anchors.length);
    this.#workers = options.workers ?? this.#settings.lookAhead;
    whole("workers", this.#workers, 1);
    this.#history = new History(draws, space, this.#settings);
    this.#journal = options.journal ?? new MemoryJournal();
  }

  async run(): Promise<SearchResult<G>> {
    const { signal } = this.#options;
    signal?.addEventListener("abort", this.#wake);
    try {
      await this.#restore();
      const ended = await this.#loop();
      return { ended, progress: this.#progress() };
    } finally {
      signal?.removeEventListener("abort", this.#wake);
      this.#stop.abort(signal?.reason ?? new Error("the search has ended"));
      await this.#save();
      this.#report(true);
    }
  }

  async #restore(): Promise<void> {
    const last: CandidateRecord[] = [];
    for await (const batch of this.#journal.read(searchIdentity(this.#options))) {
      for (const record of batch) {
        this.#tally.add(record, this.#history.restore(record));
        last.push(record);
      }
      last.splice(0, last.length - this.#settings.lookAhead);
    }
    for (const record of last) this.#history.verify(record);
    const { candidates, evaluated, work, seconds } = this.#tally;
    this.#restored = { candidates, evaluations: evaluated, work, seconds };
  }

  /** Proposes, evaluates and commits until the budget is used up. */
  async #loop(): Promise<keyof Budget | "exhausted"> {
    let turn = performance.now();
    for (;;) {
      this.#options.signal?.throwIfAborted();
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#canCommit()) this.#commit();
      const ended = this.#ended();
      if (ended !== undefined) return ended;
      this.#propose();
      this.#launch();
      this.#report(false);
      const wait = !this.#canCommit();
      if (this.#unsaved.length >= BATCH || this.#saveDue() <= 0) await this.#save();
      if (wait || performance.now() - turn > TURN) {
        await this.#pause(wait);
        turn = performance.now();
      }
    }
  }

  #ended(): keyof Budget | "exhausted" | undefined {
    const { budget } = this.#options;
    const used = this.#used();
    const names = Object.keys(used) as (keyof Budget)[];
    const ended = names.find((name) => used[name] >= (budget[name] ?? Infinity));
    return ended ?? (this.#tally.idle >= EXHAUSTED ? "exhausted" : undefined);
  }

  #used(): Required<Budget> {
    const { candidates, evaluated: evaluations, work, seconds } = this.#tally;
    return {
      candidates,
      evaluations,
      work,
      seconds,
      elapsedSeconds: (performance.now() - this.#began) / 1000,
    };
  }

  #propose(): void {
    const { candidates = Infinity } = this.#options.budget;
    while (this.#history.canPropose && this.#history.proposed < candidates) {
      const proposal = this.#history.propose();
      if (needsEvaluation(proposal)) this.#queue.push(proposal);
    }
  }

  /** Starts evaluations in order, none that the budget may turn out not to need. */
  #launch(): void {
    const { evaluations = Infinity } = this.#options.budget;
    while (
      this.#queue.length > 0 && this.#running < this.#workers &&
      this.#tally.evaluated + this.#open < evaluations
    ) void this.#evaluate(this.#queue.shift()!);
  }

  async #evaluate({ index, genotype, hash }: Proposal<G>): Promise<void> {
    this.#running++;
    this.#open++;
    try {
      const evaluation = await this.#options.evaluate({ index, genotype, hash }, this.#stop.signal);
      this.#results.set(index, checked(evaluation, index, this.#options));
    } catch (error) {
      this.#failure ??= { error };
    }
    this.#running--;
    this.#wake();
  }

  #canCommit(): boolean {
    const { next } = this.#history;
    return next !== undefined && (!needsEvaluation(next) || this.#results.has(next.index));
  }

  #commit(): void {
    const { index } = this.#history.next!;
    const evaluation = this.#results.get(index) ?? null;
    if (this.#results.delete(index)) this.#open--;
    const { record, member } = this.#history.commit(evaluation);
    this.#tally.add(record, member);
    this.#unsaved.push(record);
  }

  /** Milliseconds until unsaved records should be written. */
  #saveDue(): number {
    if (this.#unsaved.length === 0) return Infinity;
    return this.#saved + 1000 * (this.#options.journalSeconds ?? 5) - performance.now();
  }

  async #save(): Promise<void> {
    const records = this.#unsaved.splice(0);
    if (records.length > 0) await this.#journal.append(records);
    this.#saved = performance.now();
  }

  /** Gives way to evaluations, timers and signals; `wait`: until there is something to do. */
  async #pause(wait: boolean): Promise<void> {
    const { elapsedSeconds = Infinity } = this.#options.budget;
    const untilEnd = this.#began + 1000 * elapsedSeconds - performance.now();
    // Once a second at least, so that the time left is reported while evaluations take long.
    const longest = Math.min(this.#saveDue(), untilEnd, 1000);
    if (!wait || !this.#awake) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, wait ? Math.max(0, longest) : 0);
        this.#resume = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#resume = () => {};
    this.#awake = false;
  }

  #report(last: boolean): void {
    const now = performance.now();
    if (!last && now - this.#reported < PROGRESS_INTERVAL) return;
    this.#reported = now;
    this.#options.onProgress?.(this.#progress());
  }

  #progress(): SearchProgress<G> {
    const { candidates, evaluated, accepted, rejected, duplicates, best, front, seconds, work } = this.#tally;
    const used = this.#used();
    const { elapsedSeconds } = used;
    const before: Record<string, number> = { ...this.#restored, elapsedSeconds: 0 };
    const left = Object.entries(this.#options.budget).map(([name, limit = Infinity]) => {
      const now = used[name as keyof Budget];
      return elapsedSeconds * Math.max(0, limit - now) / (now - before[name]!);
    });
    const rate = (candidates - this.#restored.candidates) / elapsedSeconds;
    return {
      candidates,
      evaluated,
      accepted,
      rejected: { ...rejected },
      duplicates,
      population: this.#history.population.length,
      running: this.#running,
      best,
      front: [...front],
      seconds,
      work,
      elapsedSeconds,
      rate: rate > 0 ? rate : NaN,
      remainingSeconds: finite(Math.min(...left)),
    };
  }
}

const finite = (value: number): number => (Number.isFinite(value) ? value : NaN);

const needsEvaluation = <G>({ screenedBy, duplicateOf }: Proposal<G>): boolean =>
  screenedBy === null && duplicateOf === null;

/** An evaluation that says what it has to. @throws {TypeError | RangeError} Otherwise. */
function checked(evaluation: Evaluation, index: number, { anchors, stages }: RecordNames): Evaluation {
  const refuse = `Cannot enter the result of candidate ${index} as`;
  const unknown = evaluation.stages.find(({ name }) => !stages.includes(name));
  if (evaluation.stages.length === 0 || unknown !== undefined) {
    throw new RangeError(
      `${refuse} its stages must be among ${stages.join(", ")}, at least one: current stage is ${
        unknown?.name ?? "none"
      }`,
    );
  }
  if ("rejectedBy" in evaluation) {
    if (typeof evaluation.rejectedBy === "string" && evaluation.rejectedBy !== "") return evaluation;
    throw new TypeError(
      `${refuse} 'rejectedBy' must name a test: current rejectedBy is ${evaluation.rejectedBy}`,
    );
  }
  const { scores } = evaluation;
  if (scores?.length === anchors.length && scores.every(Number.isFinite)) return evaluation;
  throw new RangeError(
    `${refuse} it must have ${anchors.length} finite scores: current scores are ${scores?.join(", ")}`,
  );
}

function requireNames(what: string, names: readonly string[]): void {
  const free = names.filter((name) => !(ownStages as readonly string[]).includes(name));
  if (names.length > 0 && new Set(free).size === names.length && !names.includes("")) return;
  throw new RangeError(
    `Cannot search as '${what}' must be different names, none of them ${
      ownStages.join(" or ")
    }: current ${what} are ${names.join(", ") || "none"}`,
  );
}
