import { BrokenFileError } from "./_arrow.ts";
import type { FileWriter } from "./_files.ts";
import { resolveOptions, trialIdentity, trialsOf } from "./_identity.ts";
import type { LaunchSettings } from "./_launch.ts";
import { TrialsOnDemand } from "./_on_demand.ts";
import { Pool } from "./_pool.ts";
import { prepare } from "./_prepare.ts";
import { ProgressTracker } from "./_progress.ts";
import type { TrialResult } from "./_protocol.ts";
import { runProvenance } from "./_provenance.ts";
import { loadResults } from "./_results.ts";
import { Store } from "./_store.ts";
import type {
  BackendSummary,
  Experiment,
  FailedTrial,
  RunEvent,
  RunOutcome,
  Scale,
  StoredTrial,
  Trial,
} from "./_types.ts";

/** Which experiment to run, and how. */
export interface RunSettings {
  readonly experiment: Experiment;
  readonly scale: Scale;
  /** Default `auto`. */
  readonly backend?: string;
  /** Child processes; 0 runs in this process. Default: as many as there are cores. */
  readonly workers?: number;
  readonly options?: Readonly<Record<string, string>>;
  /** Default `results`. */
  readonly resultsDir?: string;
  /** Runs what is stored once more and replaces it. */
  readonly fresh?: boolean;
  /** Runs at most so many trials now. */
  readonly limitTrials?: number;
  readonly onProgress?: (event: RunEvent) => void;
  /** Stops the run. What is in the store stays; the same run goes on from there. */
  readonly signal?: AbortSignal;
  /** Replaces the writing of files: tests simulate a full disk with it. */
  readonly writeFile?: FileWriter;
}

/**
 * Runs the trials of an experiment that are not in the store yet, and stores each as it ends. A trial that throws,
 * or whose process dies twice, is recorded as failed; the others go on.
 *
 * Throws RangeError for an unknown scale or option, `StorageError` where results cannot be written, what the
 * experiment's `fetch` and `prepare` throw for its data and backend, and the signal's reason when stopped.
 */
export async function runExperiment(settings: RunSettings): Promise<RunOutcome> {
  const run = new Run(settings);
  try {
    return await run.complete();
  } finally {
    run.close();
  }
}

/** One call of {@link runExperiment}. */
class Run {
  readonly #settings: RunSettings;
  readonly #options: Record<string, string>;
  readonly #trials: readonly Trial[];
  readonly #store: Store;
  readonly #tracker: ProgressTracker;
  readonly #launch: LaunchSettings;
  readonly #pool: Pool;
  readonly #parts: TrialsOnDemand | undefined;
  readonly #warnings: string[] = [];
  readonly #failed: FailedTrial[] = [];
  readonly #began = performance.now();
  readonly #resultsDir: string;
  #ran = 0;

  constructor(settings: RunSettings) {
    const { experiment, scale, backend = "auto", resultsDir = "results", onProgress = () => {} } = settings;
    this.#settings = settings;
    this.#resultsDir = resultsDir;
    this.#options = resolveOptions(experiment, settings.options);
    this.#trials = trialsOf(experiment, scale, this.#options);
    this.#store = new Store(resultsDir, experiment.id, scale, settings.writeFile);
    this.#tracker = new ProgressTracker(this.#trials.length, onProgress);
    const signal = settings.signal ?? new AbortController().signal;
    const { workers = navigator.hardwareConcurrency } = settings;
    const launch = { experiment, scale, options: this.#options, backend, signal };
    if (experiment.parts === undefined || workers === 0) {
      this.#launch = launch;
      this.#pool = new Pool(launch, workers);
      return;
    }
    // Trials that are made of others only wait for them: they stay here, and the workers are for their parts.
    this.#parts = new TrialsOnDemand({
      ...launch,
      experiment: experiment.parts,
      workers,
      resultsDir,
      fetch: false,
      onWarning: (message) => this.#warn(message),
      ...(settings.writeFile === undefined ? {} : { writeFile: settings.writeFile }),
    });
    this.#launch = { ...launch, parts: this.#parts };
    this.#pool = new Pool(this.#launch, 0);
  }

  close(): void {
    this.#pool.close();
    this.#parts?.close();
  }

  async complete(): Promise<RunOutcome> {
    const { backend } = this.#launch;
    // With a backend named, the store alone can say that there is nothing to do, without loading it.
    if (backend !== "auto") {
      const { stored, missing } = this.#lookUp(backend);
      const known = stored[0]?.provenance.backend;
      this.#tracker.start(stored.length, missing.length);
      if (missing.length === 0 && known !== undefined) return this.#outcome(stored.length, known);
      this.#store.prepareForWriting();
    }
    const summary = await prepare(this.#launch, this.#pool, this.#tracker);
    const { stored, missing } = this.#lookUp(summary.name);
    const todo = missing.slice(0, this.#settings.limitTrials);
    this.#tracker.start(stored.length, todo.length);
    if (todo.length > 0) {
      this.#store.prepareForWriting();
      await this.#runTrials(todo, summary);
      this.#store.sweep();
    }
    return this.#outcome(stored.length, summary);
  }

  /** Splits the trials by whether the store has them; files that are broken are moved aside and told of. */
  #lookUp(backend: string): { stored: StoredTrial[]; missing: Trial[] } {
    if (this.#settings.fresh) return { stored: [], missing: [...this.#trials] };
    const stored: StoredTrial[] = [];
    const missing: Trial[] = [];
    for (const trial of this.#trials) {
      const found = this.#read(trial, this.#identity(trial, backend));
      if (found === undefined) missing.push(trial);
      else stored.push(found);
    }
    return { stored, missing };
  }

  #read(trial: Trial, identity: string): StoredTrial | undefined {
    try {
      return this.#store.read(trial, identity);
    } catch (error) {
      if (!(error instanceof BrokenFileError)) throw error;
      const file = this.#store.path(trial, identity);
      const aside = this.#store.moveAside(file);
      this.#warn(`'${trial.name}' is run again, as ${file} cannot be used: ${error.message}; now ${aside}`);
      return undefined;
    }
  }

  #identity(trial: Trial, backend: string): string {
    const { experiment, scale } = this.#settings;
    const { params, seed } = trial;
    return trialIdentity({ experiment: experiment.id, scale, params, seed, backend });
  }

  async #runTrials(trials: readonly Trial[], backend: BackendSummary): Promise<void> {
    const { experiment, scale, workers = navigator.hardwareConcurrency } = this.#settings;
    const shared = runProvenance();
    const tracker = this.#tracker;
    tracker.emit({ kind: "start", experiment: experiment.id, scale, workers });
    await this.#pool.run(trials, {
      started: (worker, { name }) => tracker.emit({ kind: "trial start", worker, trial: name }),
      progressed: (worker, { name }, fraction, note) =>
        tracker.emit({ kind: "progress", worker, trial: name, fraction, note }),
      warned: (message) => this.#warn(message),
      finished: (worker, trial, result) => {
        const provenance = { experiment: experiment.id, scale, trial, backend, options: this.#options };
        const versions = { ...shared.versions, ...backend.versions };
        this.#store.write({ ...provenance, ...shared, ...withoutRows(result), versions }, result.rows);
        this.#ran++;
        tracker.emit({ kind: "trial end", worker, trial: trial.name, seconds: result.seconds });
      },
      failed: (worker, trial, reason) => {
        this.#store.writeFailure(trial, this.#identity(trial, backend.name), reason);
        this.#failed.push({ trial, reason });
        tracker.emit({ kind: "trial failed", worker, trial: trial.name, reason });
      },
    });
  }

  #warn(message: string): void {
    this.#warnings.push(message);
    this.#tracker.emit({ kind: "warning", message });
  }

  #outcome(stored: number, backend: BackendSummary): RunOutcome {
    const { experiment, scale } = this.#settings;
    this.#tracker.emit({ kind: "end" });
    const selection = { experiment, scale, backend: backend.name, options: this.#options };
    return {
      experiment: experiment.id,
      scale,
      backend,
      stored,
      ran: this.#ran,
      failed: this.#failed,
      seconds: (performance.now() - this.#began) / 1000,
      warnings: this.#warnings,
      results: loadResults({ ...selection, resultsDir: this.#resultsDir }),
    };
  }
}

function withoutRows(result: TrialResult): Omit<TrialResult, "rows"> {
  const { notes, start, seconds, peakMiB } = result;
  return { notes, start, seconds, peakMiB };
}
