/** Accuracies of layers that the store holds. */
import { type Experiment, loadAllResults, type Results, type StoredTrial } from "../lib/experiment/mod.ts";
import { functionalHash, type NamedLayer, published, validate } from "../lib/graph/mod.ts";

/** The metrics of trained classifiers; their last values count. */
const metrics = ["test top-1", "test accuracy"] as const;

/** The note in which a search's trial keeps its best layers, best first, as JSON: `[{ graph, scores }, ...]`. */
const foundNote = "found layers";

/** What the store says of a layer: one line per experiment, scale, backend and setting. */
export function storedAccuracies(
  layer: NamedLayer,
  experiments: readonly Experiment[],
  resultsDir: string,
): string[] {
  const wanted = identity(layer);
  return experiments.flatMap((experiment) =>
    loadAllResults(experiment, resultsDir).results.flatMap((results) => {
      const where = `in ${[results.experiment, results.scale, results.backend].join(", ")}`;
      return [
        ...trainedLines(results, wanted).map(({ what, setting }) => `${what} ${where}${setting}`),
        ...results.trials.flatMap((stored) => foundLines(stored, wanted)).map((what) => `${what} ${where}`),
      ];
    })
  );
}

/** Of the trials that trained this layer, as one of their parameters says: mean and range per setting. */
function trainedLines({ trials }: Results, wanted: string): { what: string; setting: string }[] {
  const own = trials.filter(({ provenance: { trial } }) =>
    Object.values(trial.params).some((value) => identityOf(value) === wanted)
  );
  const columns = [...new Set(own.flatMap(({ provenance: { trial } }) => Object.keys(trial.params)))];
  const param = ({ provenance: { trial } }: StoredTrial, column: string) => trial.params[column];
  const varied = columns.filter((column) =>
    own.every((one) => identityOf(param(one, column)) === undefined) &&
    new Set(own.map((one) => param(one, column))).size > 1
  );
  const groups = Map.groupBy(
    own,
    (one) => varied.map((column) => `, ${column} ${param(one, column)}`).join(""),
  );
  return [...groups].flatMap(([setting, group]) =>
    metrics.flatMap((metric) => {
      const what = spread(metric, group.flatMap((one) => lastValue(one, metric) ?? []));
      return what === undefined ? [] : [{ what, setting }];
    })
  );
}

/** Of a search that found this layer: its scores there, and what it reached when it was trained again as the best. */
function foundLines(stored: StoredTrial, wanted: string): string[] {
  const { notes, trial } = stored.provenance;
  return foundLayers(notes[foundNote]).flatMap(({ identity, scores }, place) => {
    if (identity !== wanted) return [];
    const held = Object.entries(scores).map(([anchor, score]) => `${percent(score)} on ${anchor}`).join(", ");
    const again = place === 0 ? spread("test accuracy", lastValue(stored, "test accuracy") ?? []) : undefined;
    return [
      `held-out ${held}${again === undefined ? "" : `; ${again}`}: number ${place + 1} of ${trial.name}`,
    ];
  });
}

function foundLayers(note: unknown): { identity: string; scores: Record<string, number> }[] {
  if (typeof note !== "string") return [];
  try {
    const list: { graph: unknown; scores: Record<string, number> }[] = JSON.parse(note);
    return list.map(({ graph, scores }) => ({ identity: identity({ graph: validate(graph) }), scores }));
  } catch {
    return []; // a note of another kind
  }
}

function lastValue({ rows }: StoredTrial, metric: string): number | undefined {
  return rows.findLast((row) => row.metric === metric)?.value;
}

function spread(metric: string, given: number | readonly number[]): string | undefined {
  const values = [given].flat().sort((a, b) => a - b);
  if (values.length === 0) return undefined;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const range = `${values.length} seeds, ${percent(values[0]!)} to ${percent(values.at(-1)!)}`;
  return `${percent(mean)} ${metric}${values.length === 1 ? "" : ` (${range})`}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`;
}

/** Equal for layers that train alike: the function before the affine, the one after it, and epsilon. */
function identity({ graph, post, epsilon = 1e-5 }: Omit<NamedLayer, "name">): string {
  return [functionalHash(graph), post === undefined ? "" : functionalHash(post), epsilon].join(" ");
}

const known = new Map<string, string | undefined>();

/** The identity of the layer that a trial's parameter stands for: a published name, or a graph as JSON. */
function identityOf(text: unknown): string | undefined {
  if (typeof text !== "string") return undefined;
  if (!known.has(text)) known.set(text, readIdentity(text));
  return known.get(text);
}

function readIdentity(text: string): string | undefined {
  if (Object.hasOwn(published, text)) return identity(published[text]!);
  if (!text.startsWith("{")) return undefined;
  try {
    return identity({ graph: validate(JSON.parse(text)) });
  } catch {
    return undefined; // some other parameter
  }
}
