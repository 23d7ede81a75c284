import { createHash } from "node:crypto";
import type { Experiment, Params, Scale, Trial } from "./_types.ts";

/** Columns that every results table has, so no param may take their names. */
export const TABLE_COLUMNS: readonly string[] = ["trial", "seed", "backend", "step", "metric", "value"];

/** JSON with sorted keys: equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner) => {
    if (inner === null || typeof inner !== "object" || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** sha256 in lower-case hex. */
export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** What makes two runs the same: all that decides the rows. */
export interface TrialKey {
  readonly experiment: string;
  readonly scale: Scale;
  readonly params: Params;
  readonly seed: number;
  /** Name of the backend. */
  readonly backend: string;
}

/**
 * The identity of a trial: sha256 of the canonical JSON of experiment, params, seed, backend and scale, in hex.
 *
 * ```ts
 * import { trialIdentity } from "@normlab/normlab/experiment";
 * const key = { experiment: "toy", scale: "smoke", params: { width: 8 }, seed: 1, backend: "wasm" } as const;
 * console.log(trialIdentity(key).length); // 64
 * ```
 */
export function trialIdentity(key: TrialKey): string {
  const { experiment, scale, params, seed, backend } = key;
  return sha256(canonicalJson({ experiment, scale, params, seed, backend }));
}

/**
 * The trials of a scale, checked: names and params that can be stored, no name twice.
 *
 * Throws RangeError for a scale that the experiment lacks or a trial that cannot be stored.
 */
export function trialsOf(
  experiment: Experiment,
  scale: Scale,
  options: Readonly<Record<string, string>>,
): Trial[] {
  if (!experiment.scales.includes(scale)) {
    throw new RangeError(
      `Cannot run '${experiment.id}' as its scale must be one of ${
        experiment.scales.join(", ")
      }: current scale is '${scale}'`,
    );
  }
  const trials = experiment.trials(scale, options);
  const seen = new Set<string>();
  for (const trial of trials) {
    checkTrial(experiment.id, trial);
    if (seen.has(trial.name)) {
      throw new RangeError(
        `Cannot run '${experiment.id}' as its trials must have different names: '${trial.name}' occurs twice`,
      );
    }
    seen.add(trial.name);
  }
  return trials;
}

/** Throws RangeError unless the trial's name, seed and params can be stored without loss. */
export function checkTrial(experiment: string, trial: Trial): void {
  const fail = (what: string, given: string) => {
    throw new RangeError(`Cannot run '${experiment}' as a trial's ${what}: current one is ${given}`);
  };
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(trial.name)) {
    fail("name must be 1 to 100 characters of [A-Za-z0-9._-]", JSON.stringify(trial.name));
  }
  if (!Number.isSafeInteger(trial.seed)) fail("seed must be a safe integer", String(trial.seed));
  for (const [key, value] of Object.entries(trial.params)) {
    if (TABLE_COLUMNS.includes(key)) fail(`params must not be named ${TABLE_COLUMNS.join(", ")}`, `'${key}'`);
    if (
      !["string", "boolean", "number"].includes(typeof value) || Number.isNaN(value) || Object.is(value, -0)
    ) {
      fail(`param '${key}' must be a string, a boolean or a number that JSON can hold`, String(value));
    }
    if (typeof value === "number" && !Number.isFinite(value)) {
      fail(`param '${key}' must be finite`, String(value));
    }
  }
}

/**
 * The experiment's options with defaults filled in.
 *
 * Throws RangeError for an option that the experiment does not have, listing those that it has.
 */
export function resolveOptions(
  experiment: Experiment,
  given: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const known = experiment.options ?? {};
  for (const key of Object.keys(given)) {
    if (Object.hasOwn(known, key)) continue;
    const names = Object.keys(known);
    throw new RangeError(
      `Cannot run '${experiment.id}' as its options are ${
        names.length === 0 ? "none" : names.join(", ")
      }: current option is '${key}'`,
    );
  }
  return Object.fromEntries(
    Object.entries(known).map(([key, option]) => [key, given[key] ?? option.default]),
  );
}
