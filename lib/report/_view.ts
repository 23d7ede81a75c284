import type { Claim, Experiment, FigureSpec, ResultsView, Scale } from "../experiment/mod.ts";
import type { ColumnTable } from "arquero";

/** Results of one scale, backend and set of options, with all that the experiment makes of them. */
export interface ResultsPage {
  readonly experiment: Experiment;
  readonly results: ResultsView;
  /** Fit for file names and anchors: `laptop-tensorflow`. */
  readonly key: string;
  /** For a person: `laptop, tensorflow`. */
  readonly label: string;
  readonly claims: readonly Claim[];
  readonly figures: readonly FigureSpec[];
  readonly tables: Readonly<Record<string, ColumnTable>>;
  /** Other files, as text by name. */
  readonly files: Readonly<Record<string, string>>;
  /** What could not be made of the results as they are, and why. */
  readonly gaps: readonly string[];
}

/** What each scale is worth, said on every page. */
export const SCALE_NOTES: Readonly<Record<Scale, string>> = {
  smoke: "smoke scale: shows that everything runs; too small to judge a claim by",
  laptop: "laptop scale: reduced model and data, on a laptop's cores",
  paper: "paper scale: the paper's own setting",
};

/** Asks the experiment for claims, figures and tables; incomplete results may not be enough for all of them. */
export function viewResults(experiment: Experiment, results: ResultsView, key: string): ResultsPage {
  const gaps: string[] = [];
  const attempt = <T>(what: string, make: () => T, otherwise: T): T => {
    try {
      return make();
    } catch (error) {
      gaps.push(`No ${what} could be made of these results: ${(error as Error).message}`);
      return otherwise;
    }
  };
  return {
    experiment,
    results,
    key,
    label: [results.scale, results.backend, ...changedOptions(experiment, results)].join(", "),
    claims: attempt("claims", () => experiment.claims(results), []),
    figures: attempt("figures", () => experiment.figures(results), []),
    tables: attempt("tables", () => experiment.tables(results), {}),
    files: attempt("files", () => experiment.files?.(results) ?? {}, {}),
    gaps,
  };
}

/** Options that are not at their defaults, as `name=value`. */
export function changedOptions(experiment: Experiment, { options }: Pick<ResultsView, "options">): string[] {
  return Object.entries(options)
    .filter(([name, value]) => value !== experiment.options?.[name]?.default)
    .map(([name, value]) => `${name}=${value}`);
}

/** The command that makes these results again. */
export function rerunCommand(experiment: Experiment, results: ResultsView): string {
  const options = changedOptions(experiment, results).map((option) => ` --option ${quote(option)}`).join("");
  return `deno task normlab run ${experiment.id} --scale ${results.scale} --backend ${results.backend}${options} --fresh`;
}

function quote(word: string): string {
  return /^[A-Za-z0-9._=/:-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Facts about the runs behind some results. */
export function runFacts(results: ResultsView) {
  const provenances = results.trials.map((trial) => trial.provenance);
  const distinct = (pick: (provenance: (typeof provenances)[number]) => string) => [
    ...new Set(provenances.map(pick)),
  ];
  return {
    commits: distinct(({ commit, dirty }) => `${commit.slice(0, 10)}${dirty ? " (with changes)" : ""}`),
    devices: distinct(({ backend }) => {
      const driver = backend.driver === "" ? "" : `, ${backend.driver}`;
      return `${backend.device}${driver}${backend.software ? " (software)" : ""}`;
    }),
    cpus: distinct(({ cpu }) => cpu),
    locks: distinct(({ lock }) => lock.slice(0, 16)),
    versions: distinct(({ versions }) =>
      Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")
    ),
    starts: provenances.map(({ start }) => start).sort(),
    computeSeconds: provenances.reduce((sum, { seconds }) => sum + seconds, 0),
    peakMiB: Math.max(0, ...provenances.map(({ peakMiB }) => peakMiB)),
  };
}
