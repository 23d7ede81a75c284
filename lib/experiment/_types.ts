import type { ColumnTable } from "arquero";

/**
 * How much of an experiment is run. `smoke`: seconds per trial, run by the tests; `laptop`: an hour or two on
 * two cores, the numbers that are published; `paper`: the paper's own setting.
 */
export type Scale = "smoke" | "laptop" | "paper";

/** The scales, smallest first. */
export const SCALES: readonly Scale[] = ["smoke", "laptop", "paper"];

/** What a trial is parameterised by: plain JSON values, so that it can be hashed, stored and sent. */
export type Params = Readonly<Record<string, string | number | boolean>>;

/** One run of an experiment: pure, so that the same trial on the same backend gives the same rows. */
export interface Trial {
  /** Short, unique within its scale, fit for a file name: `[A-Za-z0-9._-]`, at most 100 characters. */
  readonly name: string;
  /** Everything that decides the rows, apart from seed, scale and backend. */
  readonly params: Params;
  /** The root of every random draw of the trial. */
  readonly seed: number;
}

/** One measured value, stored tidy as `trial, step, metric, value`. NaN and infinities are values too. */
export interface Row {
  /** Training step (or any other non-negative count that fits 32 bits). */
  readonly step: number;
  /** Name of what was measured, with its unit where it has one: `test accuracy`, `loss`. */
  readonly metric: string;
  readonly value: number;
}

/** The backend that computed a trial, as an experiment's `prepare` found it. */
export interface BackendSummary {
  /** `wasm`, `tensorflow` or `webgpu`: never `auto`. */
  readonly name: string;
  readonly device: string;
  readonly driver: string;
  /** True where a GPU interface is emulated on the CPU. */
  readonly software: boolean;
  /** Versions of the libraries that did the arithmetic, e.g. `{ tfjs: "4.22.0" }`. */
  readonly versions: Readonly<Record<string, string>>;
}

/** What a running trial is given. */
export interface TrialContext {
  readonly scale: Scale;
  readonly backend: BackendSummary;
  /** The experiment's options, defaults filled in. One that changes the rows belongs in the trial's params. */
  readonly options: Readonly<Record<string, string>>;
  /** Records a row. Rows are bit-identical between runs: no time, no memory, no speed in them. */
  report(row: Row): void;
  /**
   * Says how far the trial is, in [0, 1], with a few words (`loss 1.23`). Call it at least every second or two:
   * it is also where a trial whose launcher was stopped or killed ends.
   */
  progress(fraction: number, note: string): void;
  /** Aborted when the run is stopped. `report` and `progress` then throw its reason. */
  readonly signal: AbortSignal;
  /** Stores a fact about this very run (images per second, parameters) in the file's metadata, not as a row. */
  note(key: string, value: string | number): void;
  /**
   * Runs a trial of the experiment's `parts`, or finds it in the store; several may be under way at once. In the process
   * that coordinates a run, parts go to its workers under their limits; in any other they are computed on the spot.
   */
  runPart(trial: Trial): Promise<TrialOutcome>;
}

/** The most that a trial may take of the machine before its process is ended. */
export interface TrialLimits {
  readonly seconds?: number;
  /** Resident memory of the process that runs it. */
  readonly mib?: number;
}

/** What ended a trial before it was done. */
export type LimitName = "time limit" | "memory limit";

/** What a trial that was run on demand left behind. */
export interface TrialOutcome {
  /** Of a trial that was ended: one, the limit itself. */
  readonly rows: readonly Row[];
  readonly notes: Readonly<Record<string, string | number>>;
  readonly seconds: number;
  /** Null for a trial that came to its end. */
  readonly limit: LimitName | null;
  /** Whether the store had it already. */
  readonly found: boolean;
}

/** A figure as data: `spec` is Vega-Lite 6 with its data inline. The room `figures` makes and draws them. */
export interface FigureSpec {
  /** File name without extension: `[A-Za-z0-9._-]`. */
  readonly name: string;
  readonly title: string;
  /** What is seen, for a reader of the page: one to three sentences. */
  readonly caption: string;
  /** What is seen, for someone who cannot see it. */
  readonly alt: string;
  readonly spec: object;
}

/** A verdict on a claim; negative ones are results too. */
export type Verdict = "reproduced" | "not reproduced" | "inconclusive" | "not run at this scale";

/** What the paper claims, what it printed, what was measured here, and what follows. Made by {@link judge}. */
export interface Claim {
  /** Short and unique within the experiment: `s0-beats-gn-relu`. */
  readonly id: string;
  /** The paper's claim, in a sentence. */
  readonly statement: string;
  /** The number that the paper printed, and where. */
  readonly printed?: { readonly value: number | string; readonly source: string };
  /** What is measured here, with its unit: `test accuracy of S0 minus GN-ReLU (percentage points)`. */
  readonly measure: string;
  /** Which side of the threshold supports the claim. */
  readonly direction: "above" | "below";
  readonly threshold: number;
  /** NaN where nothing was measured. */
  readonly estimate: number;
  /** Confidence interval of the estimate. */
  readonly interval: readonly [lo: number, hi: number];
  /** Number of seeds (pairs of seeds, for a paired difference; the smaller group's, otherwise). */
  readonly seeds: number;
  readonly verdict: Verdict;
  readonly note?: string;
}

/** An experiment: one file in `experiments/`, thin, composed of the library's parts. */
export interface Experiment {
  /** `evonorm/layers`: lower case, the folder and the file. */
  readonly id: string;
  readonly title: string;
  /** Method and deviations from the paper, for the report: paragraphs separated by empty lines. */
  readonly summary: string;
  /** The paper, section, table or figure. */
  readonly source: string;
  /** `import.meta.url` of the file that exports this experiment: worker processes import it from there. */
  readonly module: string;
  /** What each scale costs, for a person: `2 cores: 50 s`. */
  readonly cost: Readonly<Record<Scale, string>>;
  /** The scales that can be run. */
  readonly scales: readonly Scale[];
  readonly options?: Readonly<Record<string, { readonly description: string; readonly default: string }>>;
  /** The trials of a scale. Pure: it reads no file and no clock. */
  trials(scale: Scale, options: Readonly<Record<string, string>>): Trial[];
  /**
   * Brings what the trials of a scale read (data sets) onto this machine, once, before any starts: worker processes have neither
   * network nor write permission. `onProgress` takes a few words now and then. Idempotent.
   */
  fetch?(
    scale: Scale,
    options: Readonly<Record<string, string>>,
    onProgress: (note: string) => void,
  ): Promise<void>;
  /** Loads what a trial needs and says on what it will run. `backend` may be `auto`. Idempotent. */
  prepare(backend: string): Promise<BackendSummary>;
  run(trial: Trial, context: TrialContext): Promise<void>;
  /**
   * The experiment whose trials this one's trials are made of (a search is made of evaluations): see
   * {@link TrialContext.runPart}. Its trials are not known beforehand, and its options are those of this one.
   */
  readonly parts?: Experiment;
  /** Of trials that are run on demand. */
  limits?(scale: Scale): TrialLimits;
  tables(results: ResultsView): Record<string, ColumnTable>;
  figures(results: ResultsView): FigureSpec[];
  claims(results: ResultsView): Claim[];
  /** More to publish beside figures and tables, as text by file name: `layers.json`. */
  files?(results: ResultsView): Record<string, string>;
}

/** Where a stored trial came from: the Arrow file's schema metadata. */
export interface Provenance {
  readonly experiment: string;
  readonly scale: Scale;
  readonly trial: Trial;
  readonly backend: BackendSummary;
  /** Options as the run had them. */
  readonly options: Readonly<Record<string, string>>;
  /** Commit of the working tree, or `unknown` outside of one. */
  readonly commit: string;
  /** Whether the working tree had changes. */
  readonly dirty: boolean;
  /** Deno, V8, TypeScript, and the libraries of the backend. */
  readonly versions: Readonly<Record<string, string>>;
  /** sha256 of deno.lock, or `unknown`. */
  readonly lock: string;
  /** ISO 8601, UTC. */
  readonly start: string;
  readonly seconds: number;
  /** Peak resident memory of the process that ran the trial so far. */
  readonly peakMiB: number;
  readonly cpu: string;
  readonly notes: Readonly<Record<string, string | number>>;
}

/** One file of the store. */
export interface StoredTrial {
  /** Path of the Arrow file. */
  readonly file: string;
  /** Identity: see {@link trialIdentity}. */
  readonly id: string;
  readonly rows: readonly Row[];
  readonly provenance: Provenance;
}

/** The stored trials of one experiment at one scale, as tables. */
export interface ResultsView {
  readonly experiment: string;
  readonly scale: Scale;
  /** One row per stored value: `trial, seed, backend`, one column per param, `step, metric, value`. */
  readonly rows: ColumnTable;
  readonly trials: readonly StoredTrial[];
  /** Trials of the scale that are not in the store. */
  readonly missing: readonly Trial[];
  /** Those of the missing ones that were tried and failed. */
  readonly failed: readonly FailedTrial[];
  /** Name of the backend that computed these results. */
  readonly backend: string;
  /** The experiment's options that these results belong to, defaults filled in. */
  readonly options: Readonly<Record<string, string>>;
  /** The value of `metric` at the last step of each trial: `trial, seed, backend`, params, `step, value`. */
  final(metric: string): ColumnTable;
  /** Final values of `metric` keyed by seed, of the trials whose params include `where`. */
  bySeed(metric: string, where?: Params): Map<number, number>;
}

/** A trial that could not be completed. */
export interface FailedTrial {
  readonly trial: Trial;
  /** The error, with the tail of the worker's stderr. */
  readonly reason: string;
}

/** What {@link runExperiment} did. */
export interface RunOutcome {
  readonly experiment: string;
  readonly scale: Scale;
  readonly backend: BackendSummary;
  /** Trials that were already in the store. */
  readonly stored: number;
  /** Trials that were run now. */
  readonly ran: number;
  readonly failed: readonly FailedTrial[];
  readonly seconds: number;
  /** Things a person should know: files moved aside, workers restarted. */
  readonly warnings: readonly string[];
  /** Everything that the store now holds of this experiment, scale, backend and options. */
  readonly results: ResultsView;
}

/** Where a run stands: part of every {@link RunEvent}. */
export interface RunStatus {
  readonly total: number;
  /** Trials in the store, those found there included. */
  readonly done: number;
  readonly failed: number;
  /** Trials run now (done or in part), in trials. */
  readonly progressed: number;
  readonly elapsedSeconds: number;
  /** Time left at the rate so far, or NaN while there is none. */
  readonly remainingSeconds: number;
}

/** What a run tells its watcher, in order. `worker` is the number of the worker, from 0. */
export type RunEvent =
  & { readonly status: RunStatus }
  & (
    | { readonly kind: "fetch"; readonly experiment: string; readonly scale: Scale; readonly note: string }
    | {
      readonly kind: "prepare";
      readonly experiment: string;
      readonly scale: Scale;
      readonly backend: string;
    }
    | { readonly kind: "start"; readonly experiment: string; readonly scale: Scale; readonly workers: number }
    | { readonly kind: "warning"; readonly message: string }
    | { readonly kind: "trial start"; readonly worker: number; readonly trial: string }
    | {
      readonly kind: "progress";
      readonly worker: number;
      readonly trial: string;
      readonly fraction: number;
      readonly note: string;
    }
    | {
      readonly kind: "trial end";
      readonly worker: number;
      readonly trial: string;
      readonly seconds: number;
    }
    | {
      readonly kind: "trial failed";
      readonly worker: number;
      readonly trial: string;
      readonly reason: string;
    }
    | { readonly kind: "end" }
  );
