import { BrokenFileError } from "./_arrow.ts";
import type { FileWriter } from "./_files.ts";
import { checkTrial, resolveOptions, trialIdentity } from "./_identity.ts";
import {
  InlineRunner,
  type LaunchSettings,
  ProcessRunner,
  TrialFailure,
  type TrialRunner,
  WorkerDeath,
} from "./_launch.ts";
import { requireLimits, watchLimits } from "./_limits.ts";
import type { TrialResult } from "./_protocol.ts";
import { type RunProvenance, runProvenance } from "./_provenance.ts";
import { Store } from "./_store.ts";
import type {
  BackendSummary,
  Experiment,
  LimitName,
  Scale,
  StoredTrial,
  Trial,
  TrialLimits,
  TrialOutcome,
} from "./_types.ts";

/** Which experiment's trials are run on demand, and how. */
export interface TrialsOnDemandSettings {
  readonly experiment: Experiment;
  readonly scale: Scale;
  /** Default `auto`. */
  readonly backend?: string;
  /** Child processes; 0 runs in this process, without limits. Default: as many as there are cores. */
  readonly workers?: number;
  readonly options?: Readonly<Record<string, string>>;
  /** Default `results`. */
  readonly resultsDir?: string;
  /** Of one trial. Default: the experiment's. */
  readonly limits?: TrialLimits;
  /** Whether the experiment's `fetch` is called before the first trial. Default true. */
  readonly fetch?: boolean;
  /** Told of workers that were lost and files that were moved aside. */
  readonly onWarning?: (message: string) => void;
  /** Ends all workers; trials under way then throw its reason. */
  readonly signal?: AbortSignal;
  /** Replaces the writing of files: tests simulate a full disk with it. */
  readonly writeFile?: FileWriter;
}

/** A trial whose process died is tried once more in a fresh one; it may have been killed by mistake. */
const ATTEMPTS = 2;

/** Names the note of a stored trial that says which limit ended it; the row of that name has the limit's value. */
const ENDED_BY = "ended by";

/** A runner that has loaded its backend. */
interface Worker {
  readonly runner: TrialRunner;
  /** Trials that it has run: what they left in memory counts into the next one's. */
  used: number;
}

/**
 * Trials run as they are asked for: looked up in the store, or else run on the next free worker and stored. A trial
 * that passes a limit is ended with its process, and stored as such: it is not run again unless the limit was raised.
 * What is stored is whole, whichever process is killed; to go on is to ask again.
 *
 * ```ts
 * import { type Experiment, TrialsOnDemand } from "@normlab/normlab/experiment";
 * const evaluate = async (experiment: Experiment, growth: number) => {
 *   using trials = new TrialsOnDemand({ experiment, scale: "smoke", limits: { seconds: 60 } });
 *   const { rows, limit } = await trials.run({ name: `growth${growth}`, params: { growth }, seed: 1 });
 *   return limit ?? rows.at(-1)?.value;
 * };
 * console.log(typeof evaluate);
 * ```
 */
export class TrialsOnDemand {
  readonly #settings: TrialsOnDemandSettings;
  readonly #launch: LaunchSettings;
  readonly #limits: TrialLimits;
  readonly #store: Store;
  readonly #stop = new AbortController();
  /** Every runner that was started and not ended. */
  readonly #runners = new Set<TrialRunner>();
  readonly #idle: Worker[] = [];
  readonly #waiting: (() => void)[] = [];
  /** Trials under way by identity: one that is asked for twice is run once. */
  readonly #open = new Map<string, Promise<TrialOutcome>>();
  #free: number;
  #prepared: Promise<BackendSummary> | undefined;
  #provenance: RunProvenance | undefined;

  /** @throws {RangeError} An unknown scale or option, workers that are no whole number from 0, a limit not above 0. */
  constructor(settings: TrialsOnDemandSettings) {
    const { experiment, scale, backend = "auto", resultsDir = "results", signal } = settings;
    const { workers = navigator.hardwareConcurrency } = settings;
    const { limits = experiment.limits?.(scale) ?? {} } = settings;
    if (!experiment.scales.includes(scale)) {
      throw new RangeError(
        `Cannot run '${experiment.id}' as its scale must be one of ${
          experiment.scales.join(", ")
        }: current scale is '${scale}'`,
      );
    }
    if (!Number.isInteger(workers) || workers < 0) {
      throw new RangeError(
        `Cannot run trials as workers must be a whole number from 0 (in this process): current workers is ${workers}`,
      );
    }
    requireLimits(limits);
    this.#settings = settings;
    this.#limits = limits;
    this.#free = Math.max(1, workers);
    const options = resolveOptions(experiment, settings.options);
    this.#launch = { experiment, scale, options, backend, signal: this.#stop.signal };
    this.#store = new Store(resultsDir, experiment.id, scale, settings.writeFile);
    if (signal?.aborted) this.#end(signal.reason);
    signal?.addEventListener("abort", () => this.#end(signal.reason), { once: true });
  }

  /**
   * Loads the backend on a first worker and says which it is. {@link run} does so where it has to.
   *
   * @throws What the experiment's `fetch` and `prepare` throw; `StorageError` where results cannot be written.
   */
  prepare(): Promise<BackendSummary> {
    return this.#prepared ??= this.#prepare();
  }

  /**
   * A trial's rows, from the store or a worker.
   *
   * @throws {TrialFailure} The trial threw; a note is left in the store, and the next call tries it again.
   * @throws {WorkerDeath} Its process died twice; the same holds.
   * @throws {StorageError} The rows cannot be written.
   * @throws The signal's reason.
   */
  async run(trial: Trial): Promise<TrialOutcome> {
    const { experiment, scale, backend: asked } = this.#launch;
    this.#stop.signal.throwIfAborted();
    checkTrial(experiment.id, trial);
    // With a backend named, the store alone can answer, without loading it.
    const backend = asked === "auto" ? (await this.prepare()).name : asked;
    const { params, seed } = trial;
    const identity = trialIdentity({ experiment: experiment.id, scale, params, seed, backend });
    const open = this.#open.get(identity);
    if (open !== undefined) return await open;
    const found = this.#lookUp(trial, identity);
    if (found !== undefined) return found;
    const running = this.#onWorker(trial, identity).finally(() => this.#open.delete(identity));
    this.#open.set(identity, running);
    return await running;
  }

  /** Ends all workers: trials under way throw. */
  close(): void {
    this.#end(new Error("the trials on demand were closed"));
  }

  /** The same as {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #end(reason: unknown): void {
    this.#stop.abort(reason);
    for (const runner of this.#runners) runner.close();
    this.#runners.clear();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async #prepare(): Promise<BackendSummary> {
    const { experiment, scale, options } = this.#launch;
    if (this.#settings.fetch !== false) await experiment.fetch?.(scale, options, () => {});
    this.#store.prepareForWriting();
    this.#provenance = runProvenance();
    const { worker, backend } = await this.#start();
    this.#idle.push(worker);
    return backend;
  }

  #lookUp(trial: Trial, identity: string): TrialOutcome | undefined {
    const stored = this.#read(trial, identity);
    if (stored === undefined) return undefined;
    const { rows, provenance: { notes, seconds } } = stored;
    const limit = (notes[ENDED_BY] as LimitName | undefined) ?? null;
    // The stored limit says that the trial takes more than that; whether it keeps a higher one is not known.
    if (limit !== null && this.#limitOf(limit) > rows[0]!.value) return undefined;
    return { rows, notes, seconds, limit, found: true };
  }

  #read(trial: Trial, identity: string): StoredTrial | undefined {
    try {
      return this.#store.read(trial, identity);
    } catch (error) {
      if (!(error instanceof BrokenFileError)) throw error;
      const aside = this.#store.moveAside(this.#store.path(trial, identity));
      this.#settings.onWarning?.(
        `'${trial.name}' is run again, as its file cannot be used: ${error.message}; now ${aside}`,
      );
      return undefined;
    }
  }

  async #onWorker(trial: Trial, identity: string): Promise<TrialOutcome> {
    const backend = await this.prepare();
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let result: TrialResult & { limit: LimitName | null };
    try {
      result = await this.#complete(trial);
    } catch (error) {
      this.#stop.signal.throwIfAborted();
      const frames = error instanceof TrialFailure ? `\n${error.frames}` : "";
      if (error instanceof TrialFailure || error instanceof WorkerDeath) {
        this.#store.writeFailure(trial, identity, `${error.message}${frames}`);
      }
      throw error;
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
    // The worker's next trial is sent off before this one is written, which takes as long as some steps of training.
    await new Promise((resolve) => setTimeout(resolve));
    this.#keep(trial, backend, result);
    const { rows, notes, seconds, limit } = result;
    return { rows, notes, seconds, limit, found: false };
  }

  /** The trial's result, or that of the limit that ended it. */
  async #complete(trial: Trial): Promise<TrialResult & { limit: LimitName | null }> {
    for (let attempt = 1;; attempt++) {
      try {
        const ended = await this.#attempt(trial, attempt > 1);
        if (ended !== undefined) return ended;
      } catch (error) {
        this.#stop.signal.throwIfAborted();
        if (!(error instanceof WorkerDeath) || attempt >= ATTEMPTS) throw error;
        this.#settings.onWarning?.(`'${trial.name}' is tried again. ${error.message}`);
      }
    }
  }

  /** Undefined where memory ran out in a worker that had run others before: that says nothing about this trial. */
  async #attempt(
    trial: Trial,
    fresh: boolean,
  ): Promise<TrialResult & { limit: LimitName | null } | undefined> {
    this.#stop.signal.throwIfAborted();
    let idle = this.#takeIdle();
    if (fresh && idle !== undefined) {
      // Whoever killed the first worker may have killed the waiting ones too, and that is heard of later.
      idle.runner.close();
      this.#runners.delete(idle.runner);
      idle = undefined;
    }
    const worker = idle ?? (await this.#start()).worker;
    const { runner } = worker;
    const start = new Date().toISOString();
    const began = performance.now();
    let exceeded: LimitName | undefined;
    const watch = watchLimits(runner.pid, this.#settings.workers === 0 ? {} : this.#limits, (limit) => {
      exceeded = limit;
      runner.close();
    });
    try {
      const result = await runner.run(trial, () => {});
      worker.used++;
      this.#idle.push(worker);
      return { ...result, limit: null };
    } catch (error) {
      if (error instanceof TrialFailure) this.#idle.push(worker);
      else this.#runners.delete(runner);
      if (exceeded === undefined || error instanceof TrialFailure) throw error;
      if (exceeded === "memory limit" && worker.used > 0) return undefined;
      const seconds = (performance.now() - began) / 1000;
      const rows = [{ step: 0, metric: exceeded, value: this.#limitOf(exceeded) }];
      return { rows, notes: { [ENDED_BY]: exceeded }, start, seconds, peakMiB: 0, limit: exceeded };
    } finally {
      watch.stop();
    }
  }

  /** A worker that waits; those that were killed while they waited are let go. */
  #takeIdle(): Worker | undefined {
    for (let worker = this.#idle.pop(); worker !== undefined; worker = this.#idle.pop()) {
      if (!worker.runner.dead) return worker;
      this.#runners.delete(worker.runner);
    }
    return undefined;
  }

  #limitOf(limit: LimitName): number {
    return (limit === "time limit" ? this.#limits.seconds : this.#limits.mib) ?? Infinity;
  }

  async #start(attempt = 1): Promise<{ worker: Worker; backend: BackendSummary }> {
    this.#stop.signal.throwIfAborted();
    const runner = this.#settings.workers === 0
      ? new InlineRunner(this.#launch)
      : new ProcessRunner(this.#launch);
    this.#runners.add(runner);
    try {
      return { backend: await runner.prepare(), worker: { runner, used: 0 } };
    } catch (error) {
      this.#runners.delete(runner);
      runner.close();
      this.#stop.signal.throwIfAborted();
      if (!(error instanceof WorkerDeath) || attempt >= ATTEMPTS) throw error;
      return await this.#start(attempt + 1);
    }
  }

  #keep(trial: Trial, backend: BackendSummary, result: TrialResult): void {
    const { experiment, scale, options } = this.#launch;
    const shared = this.#provenance!;
    const { rows, notes, start, seconds, peakMiB } = result;
    const measured = { notes, start, seconds, peakMiB };
    const versions = { ...shared.versions, ...backend.versions };
    this.#store.write(
      { experiment: experiment.id, scale, trial, backend, options, ...shared, ...measured, versions },
      rows,
    );
  }
}
