/** Accuracies of layers that the store holds. */
import { type Experiment, loadAllResults, type Results } from "../lib/experiment/mod.ts";
import { fromJSON, functionalHash, type NamedLayer, published } from "../lib/graph/mod.ts";

/** The metric that classifiers report. */
const metric = "test top-1";

/** Columns of a table of rows that are no setting of the trial. */
const notSettings = new Set(["trial", "seed", "backend", "step", "value"]);

type Cells = Readonly<Record<string, string | number | boolean | null>>;

/** What the store says of a layer: one line per experiment, scale, backend and setting. */
export function storedAccuracies(
  layer: NamedLayer,
  experiments: readonly Experiment[],
  resultsDir: string,
): string[] {
  const wanted = identity(layer);
  return experiments.flatMap((experiment) =>
    loadAllResults(experiment, resultsDir).results.flatMap((results) => {
      const rows = results.final(metric).objects() as Cells[];
      const found = rows.filter((row) =>
        Object.entries(row).some(([column, value]) =>
          !notSettings.has(column) && identityOf(value) === wanted
        )
      );
      return accuracyLines(found, results);
    })
  );
}

function accuracyLines(
  rows: readonly Cells[],
  { experiment, scale, backend }: Results,
): string[] {
  const columns = Object.keys(rows[0] ?? {}).filter((column) =>
    !notSettings.has(column) && rows.every((row) => identityOf(row[column]) === undefined)
  );
  const varied = columns.filter((column) => new Set(rows.map((row) => row[column])).size > 1);
  const groups = Map.groupBy(rows, (row) => varied.map((column) => `, ${column} ${row[column]}`).join(""));
  return [...groups].map(([setting, group]) => {
    const values = group.map((row) => 100 * Number(row["value"])).sort((a, b) => a - b);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const range = values.length === 1 ? "" : `, ${values[0]!.toFixed(1)} to ${values.at(-1)!.toFixed(1)}`;
    const seeds = `${values.length} ${values.length === 1 ? "seed" : "seeds"}`;
    return `${mean.toFixed(1)}% (${seeds}${range}) in ${experiment}, ${scale}, ${backend}${setting}`;
  });
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
    return identity({ graph: fromJSON(text) });
  } catch {
    return undefined; // some other parameter
  }
}
