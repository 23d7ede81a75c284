import { rowsDigest } from "./_arrow.ts";
import { integers } from "./_claims.ts";
import { resolveOptions } from "./_identity.ts";
import { Pool } from "./_pool.ts";
import { prepare } from "./_prepare.ts";
import { ProgressTracker } from "./_progress.ts";
import type { Experiment, ResultsView, Row, RunEvent, StoredTrial } from "./_types.ts";

/** Which stored trials to run again. */
export interface VerifySettings {
  readonly experiment: Experiment;
  readonly results: ResultsView;
  /** Number of trials, drawn at random; default all. */
  readonly sample?: number;
  /** Seed of the draw. Default 1. */
  readonly seed?: number;
  /** As for a run. */
  readonly workers?: number;
  readonly onProgress?: (event: RunEvent) => void;
  readonly signal?: AbortSignal;
}

/** How a trial's second run compares with the stored one. */
export interface VerifiedTrial {
  readonly stored: StoredTrial;
  /** Whether all rows are equal, bit for bit. */
  readonly equal: boolean;
  /** The first difference, or why the trial failed; empty where there is none. */
  readonly difference: string;
}

/** Runs stored trials again, on the backend they were run on, and compares the rows bit for bit. Writes nothing. */
export async function verifyResults(settings: VerifySettings): Promise<VerifiedTrial[]> {
  const { experiment, results, sample = Infinity, seed = 1, onProgress = () => {} } = settings;
  const chosen = draw(results.trials, sample, seed);
  if (chosen.length === 0) return [];
  const signal = settings.signal ?? new AbortController().signal;
  const options = resolveOptions(experiment, results.options);
  const launch = { experiment, scale: results.scale, options, backend: results.backend, signal };
  const pool = new Pool(launch, settings.workers ?? navigator.hardwareConcurrency);
  const tracker = new ProgressTracker(chosen.length, onProgress);
  const byName = new Map(chosen.map((stored) => [stored.provenance.trial.name, stored]));
  const verified: VerifiedTrial[] = [];
  const conclude = (name: string, difference: string) => {
    const stored = byName.get(name);
    if (stored !== undefined) verified.push({ stored, equal: difference === "", difference });
  };
  try {
    tracker.start(0, chosen.length);
    const backend = await prepare(launch, pool, tracker);
    if (backend.name !== results.backend) {
      throw new Error(`asked for ${results.backend}, got ${backend.name}`);
    }
    tracker.emit({
      kind: "start",
      experiment: experiment.id,
      scale: results.scale,
      workers: settings.workers ?? 0,
    });
    await pool.run(chosen.map((stored) => stored.provenance.trial), {
      started: (worker, { name }) => tracker.emit({ kind: "trial start", worker, trial: name }),
      progressed: (worker, { name }, fraction, note) =>
        tracker.emit({ kind: "progress", worker, trial: name, fraction, note }),
      warned: (message) => tracker.emit({ kind: "warning", message }),
      finished: (worker, { name }, result) => {
        conclude(name, firstDifference(byName.get(name)?.rows ?? [], result.rows));
        tracker.emit({ kind: "trial end", worker, trial: name, seconds: result.seconds });
      },
      failed: (worker, { name }, reason) => {
        conclude(name, `it failed: ${reason}`);
        tracker.emit({ kind: "trial failed", worker, trial: name, reason });
      },
    });
    tracker.emit({ kind: "end" });
  } finally {
    pool.close();
  }
  return verified;
}

/** `count` of `trials`, by a seeded partial shuffle. */
function draw(trials: readonly StoredTrial[], count: number, seed: number): StoredTrial[] {
  const pool = [...trials];
  const below = integers(seed);
  for (let i = 0; i < Math.min(count, pool.length); i++) {
    const j = i + below(pool.length - i);
    [pool[i], pool[j]] = [pool[j]!, pool[i]!];
  }
  return pool.slice(0, Math.min(count, pool.length));
}

/** Where two lists of rows differ first, for a person; empty where they are bit-identical. */
function firstDifference(stored: readonly Row[], now: readonly Row[]): string {
  if (rowsDigest(stored) === rowsDigest(now)) return "";
  const at = stored.findIndex((row, i) => now[i] === undefined || rowsDigest([row]) !== rowsDigest([now[i]]));
  const show = (row: Row | undefined) =>
    row === undefined ? "nothing" : `${row.metric} ${row.value} at step ${row.step}`;
  const index = at === -1 ? stored.length : at;
  return `row ${index}: stored ${show(stored[index])}, now ${show(now[index])}`;
}
