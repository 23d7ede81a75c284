import { type ColumnTable, table } from "arquero";
import { BrokenFileError } from "./_arrow.ts";
import { canonicalJson, resolveOptions, trialIdentity, trialsOf } from "./_identity.ts";
import { Store } from "./_store.ts";
import type {
  Experiment,
  FailedTrial,
  Params,
  ResultsView,
  Row,
  Scale,
  StoredTrial,
  Trial,
} from "./_types.ts";

type Value = string | number | boolean | null;

/** What a {@link Results} is made of. */
export interface ResultsContent {
  readonly experiment: string;
  readonly scale: Scale;
  readonly backend: string;
  readonly options: Readonly<Record<string, string>>;
  readonly trials: readonly StoredTrial[];
  readonly missing?: readonly Trial[];
  readonly failed?: readonly FailedTrial[];
}

/** The stored trials of one experiment, scale, backend and set of options, as tables. */
export class Results implements ResultsView {
  readonly experiment: string;
  readonly scale: Scale;
  readonly backend: string;
  readonly options: Readonly<Record<string, string>>;
  readonly trials: readonly StoredTrial[];
  readonly missing: readonly Trial[];
  readonly failed: readonly FailedTrial[];
  #rows: ColumnTable | undefined;

  constructor(content: ResultsContent) {
    this.experiment = content.experiment;
    this.scale = content.scale;
    this.backend = content.backend;
    this.options = content.options;
    this.trials = content.trials;
    this.missing = content.missing ?? [];
    this.failed = content.failed ?? [];
  }

  get rows(): ColumnTable {
    return this.#rows ??= this.#tabulate(
      (trial) => trial.rows,
      (row) => ({ step: row.step, metric: row.metric, value: row.value }),
      ["step", "metric", "value"],
    );
  }

  final(metric: string): ColumnTable {
    return this.#tabulate(
      (trial) => lastOf(trial, metric),
      (row) => ({ step: row.step, value: row.value }),
      ["step", "value"],
    );
  }

  bySeed(metric: string, where: Params = {}): Map<number, number> {
    const values = new Map<number, number>();
    for (const stored of this.trials) {
      const { params, seed } = stored.provenance.trial;
      if (Object.entries(where).some(([key, value]) => params[key] !== value)) continue;
      const row = lastOf(stored, metric)[0];
      if (row === undefined) continue;
      if (values.has(seed)) {
        throw new RangeError(
          `Cannot key '${metric}' by seed as 'where' must pick one trial per seed: current where is ${
            canonicalJson(where)
          }, which picks several of seed ${seed}`,
        );
      }
      values.set(seed, row.value);
    }
    return values;
  }

  /** One table row per picked row: the trial's columns, then `measured`. */
  #tabulate(
    pick: (trial: StoredTrial) => readonly Row[],
    measured: (row: Row) => Record<string, Value>,
    measuredNames: readonly string[],
  ): ColumnTable {
    const params = [
      ...new Set(this.trials.flatMap(({ provenance }) => Object.keys(provenance.trial.params))),
    ];
    const columns: Record<string, Value[]> = {};
    for (const name of ["trial", "seed", "backend", ...params, ...measuredNames]) columns[name] = [];
    for (const stored of this.trials) {
      const { trial, backend } = stored.provenance;
      for (const row of pick(stored)) {
        const cells = { trial: trial.name, seed: trial.seed, backend: backend.name, ...trial.params };
        const all: Record<string, Value> = { ...cells, ...measured(row) };
        for (const [name, column] of Object.entries(columns)) column.push(all[name] ?? null);
      }
    }
    return table(columns);
  }
}

/** The row of `metric` at the trial's last step, in a list; empty where it has none. */
function lastOf(stored: StoredTrial, metric: string): Row[] {
  let last: Row | undefined;
  for (const row of stored.rows) {
    if (row.metric === metric && (last === undefined || row.step >= last.step)) last = row;
  }
  return last === undefined ? [] : [last];
}

/** Which results to load. */
export interface ResultsSelection {
  readonly experiment: Experiment;
  readonly scale: Scale;
  /** A backend's name; not `auto`. */
  readonly backend: string;
  readonly options?: Readonly<Record<string, string>>;
  /** Default `results`. */
  readonly resultsDir?: string;
}

/** Loads what the store holds of one scale, backend and set of options. Reads only; broken files count as missing. */
export function loadResults(selection: ResultsSelection): Results {
  const { experiment, scale, backend, resultsDir = "results" } = selection;
  const options = resolveOptions(experiment, selection.options);
  const store = new Store(resultsDir, experiment.id, scale);
  const trials: StoredTrial[] = [];
  const missing: Trial[] = [];
  const failed: FailedTrial[] = [];
  for (const trial of trialsOf(experiment, scale, options)) {
    const identity = trialIdentity({ experiment: experiment.id, scale, ...trial, backend });
    const stored = readWhole(store, trial, identity);
    if (stored !== undefined) {
      trials.push(stored);
      continue;
    }
    missing.push(trial);
    const failure = store.readFailure(trial, identity);
    if (failure !== undefined) failed.push(failure);
  }
  return new Results({ experiment: experiment.id, scale, backend, options, trials, missing, failed });
}

function readWhole(store: Store, trial: Trial, identity: string): StoredTrial | undefined {
  try {
    return store.read(trial, identity);
  } catch (error) {
    if (error instanceof BrokenFileError) return undefined;
    throw error;
  }
}

/**
 * Everything that the store holds of an experiment: one {@link Results} per scale, backend and set of options,
 * and warnings about files that belong to none (broken, or left from an older form of the experiment).
 */
export function loadAllResults(
  experiment: Experiment,
  resultsDir = "results",
): { results: Results[]; warnings: string[] } {
  const results: Results[] = [];
  const warnings: string[] = [];
  for (const scale of experiment.scales) {
    const { trials, broken } = new Store(resultsDir, experiment.id, scale).list();
    warnings.push(...broken);
    const used = new Set<string>();
    const seen = new Set<string>();
    for (const { provenance: { backend, options } } of trials) {
      const key = canonicalJson([backend.name, options]);
      if (seen.has(key)) continue;
      seen.add(key);
      const loaded = tryLoad({ experiment, scale, backend: backend.name, options, resultsDir });
      const files = loaded?.trials.map((trial) => trial.file) ?? [];
      if (loaded === undefined || files.length === 0 || files.every((file) => used.has(file))) continue;
      files.forEach((file) => used.add(file));
      results.push(loaded);
    }
    for (const { file } of trials) {
      if (!used.has(file)) {
        warnings.push(`${file} was left out: it is no trial of '${experiment.id}' as it is now`);
      }
    }
  }
  return { results, warnings };
}

/** Undefined where the experiment no longer has those options. */
function tryLoad(selection: ResultsSelection): Results | undefined {
  try {
    return loadResults(selection);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
