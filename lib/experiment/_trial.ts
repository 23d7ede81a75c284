import process from "node:process";
import type { TrialResult } from "./_protocol.ts";
import type { BackendSummary, Experiment, Row, Scale, Trial, TrialOutcome } from "./_types.ts";

/** At most so often, in milliseconds, is progress passed on: a trial may report each of thousands of steps. */
const PROGRESS_INTERVAL = 100;

/** What one trial is run with. */
export interface TrialJob {
  readonly experiment: Experiment;
  readonly trial: Trial;
  readonly scale: Scale;
  readonly backend: BackendSummary;
  readonly options: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  onProgress(fraction: number, note: string): void;
  /** Default: in this process, without a store. */
  runPart?(trial: Trial): Promise<TrialOutcome>;
}

/** Runs one trial in this process and collects its rows. Throws what the trial throws. */
export async function runTrial(job: TrialJob): Promise<TrialResult> {
  const { experiment, trial, scale, backend, options, signal, onProgress } = job;
  const rows: Row[] = [];
  const notes: Record<string, string | number> = {};
  const start = new Date().toISOString();
  const began = performance.now();
  let last = -Infinity;
  let fraction = 0;
  let words = "";
  let peak = 0;
  const pass = (note: string) => {
    words = note;
    if (performance.now() - last < PROGRESS_INTERVAL) return;
    peak = Math.max(peak, process.memoryUsage().rss);
    onProgress(fraction, note);
    last = performance.now();
  };
  signal.throwIfAborted();
  await experiment.run(trial, {
    scale,
    backend,
    options,
    signal,
    report(row) {
      signal.throwIfAborted();
      rows.push(checkedRow(trial, row));
      pass(`${row.metric} ${Number(row.value.toPrecision(4))}`);
    },
    progress(value, note) {
      signal.throwIfAborted();
      fraction = Math.min(1, Math.max(0, value));
      pass(note);
    },
    note(key, value) {
      notes[key] = typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
    },
    runPart: job.runPart ?? oneByOne(async (part) => {
      const { parts } = experiment;
      if (parts === undefined) {
        throw new TypeError(`Cannot run a part of '${trial.name}' as '${experiment.id}' must have parts`);
      }
      const result = await runTrial({ ...job, experiment: parts, trial: part, onProgress: () => {} });
      return { ...result, limit: null, found: false };
    }),
  });
  onProgress(1, words);
  return {
    rows,
    notes,
    start,
    seconds: (performance.now() - began) / 1000,
    peakMiB: Math.round(Math.max(peak, process.memoryUsage().rss) / 2 ** 20),
  };
}

/** Calls wait for those before them: two trainings in one process would only share its memory. */
function oneByOne<A, B>(call: (argument: A) => Promise<B>): (argument: A) => Promise<B> {
  let last: Promise<unknown> = Promise.resolve();
  return (argument) => {
    const next = last.then(() => call(argument));
    last = next.catch(() => {});
    return next;
  };
}

/** The row as it is stored: a copy, with the one NaN that JSON, Arrow and every CPU agree on. */
function checkedRow(trial: Trial, { step, metric, value }: Row): Row {
  if (!Number.isInteger(step) || step < 0 || step >= 2 ** 31) {
    throw new RangeError(
      `Cannot record a row of '${trial.name}' as step must be a whole number from 0 to 2^31 - 1: current step is ${step}`,
    );
  }
  if (typeof metric !== "string" || metric === "" || typeof value !== "number") {
    throw new TypeError(
      `Cannot record a row of '${trial.name}' as it must have a metric's name and a number: current row is ${
        JSON.stringify({ step, metric, value })
      }`,
    );
  }
  return { step, metric, value: Number.isNaN(value) ? NaN : value };
}

/** An error's message, and where it was thrown: the innermost frames. */
export function describe(error: unknown): { message: string; stack: string } {
  if (!(error instanceof Error)) return { message: String(error), stack: "" };
  const frames = error.stack?.split("\n").filter((line) => /^\s+at /.test(line)) ?? [];
  return { message: error.message, stack: [error.name, ...frames.slice(0, 6)].join("\n") };
}
