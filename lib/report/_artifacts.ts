import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import type { ColumnTable } from "arquero";
import { parquetWriteBuffer } from "hyparquet-writer";
import { type Experiment, type ResultsView, storageError, writeAtomically } from "../experiment/mod.ts";
import { toSVG } from "../figures/mod.ts";
import type { ResultsPage } from "./_view.ts";
import { viewResults } from "./_view.ts";

/** The files that are made of some results, by path within their folder. */
export async function artifacts(
  view: Pick<ResultsPage, "results" | "figures" | "tables" | "files">,
): Promise<Map<string, Uint8Array | string>> {
  const files = new Map<string, Uint8Array | string>();
  for (const figure of view.figures) files.set(`figures/${figure.name}.svg`, await toSVG(figure));
  for (const [name, table] of Object.entries(view.tables)) {
    files.set(`tables/${name}.csv`, `${table.toCSV()}\n`);
  }
  for (const [name, text] of Object.entries(view.files)) files.set(name, text);
  files.set("rows.parquet", toParquet(view.results.rows));
  return files;
}

/**
 * Writes the figures (SVG), the tables (CSV), the experiment's other files and all rows in one file (Parquet) beside the trials, in
 * `results/<experiment>/<scale>`, and returns their paths. Throws `StorageError` where it cannot.
 */
export async function writeArtifacts(
  experiment: Experiment,
  results: ResultsView,
  resultsDir = "results",
): Promise<{ files: string[]; gaps: readonly string[] }> {
  const folder = join(resultsDir, ...experiment.id.split("/"), results.scale);
  const view = viewResults(experiment, results, results.scale);
  const written: string[] = [];
  for (const [path, content] of await artifacts(view)) {
    try {
      mkdirSync(dirname(join(folder, path)), { recursive: true });
    } catch (error) {
      throw storageError("make the folders of figures and tables", folder, error);
    }
    writeAtomically(join(folder, path), content);
    written.push(join(folder, path));
  }
  return { files: written, gaps: view.gaps };
}

/**
 * A table as a Parquet file, for tools that do not read Arrow files on their own (DuckDB without extensions).
 * Whole steps and seeds become integers; a column of mixed types becomes text.
 */
export function toParquet(table: ColumnTable): Uint8Array {
  const columnData = table.columnNames().map((name) => {
    const values = Array.from(table.array(name) as ArrayLike<unknown>, (value) => value ?? undefined);
    return { name, ...typed(name, values), nullable: values.includes(undefined) };
  });
  return new Uint8Array(parquetWriteBuffer({ columnData }));
}

type ParquetColumn = { data: unknown[]; type: "INT32" | "INT64" | "DOUBLE" | "BOOLEAN" | "STRING" };

function typed(name: string, data: unknown[]): ParquetColumn {
  const is = (type: string) => data.every((value) => value === undefined || typeof value === type);
  if (name === "step") return { data, type: "INT32" };
  if (name === "seed") return { data: data.map((value) => BigInt(value as number)), type: "INT64" };
  if (is("number")) return { data, type: "DOUBLE" };
  if (is("boolean")) return { data, type: "BOOLEAN" };
  return { data: data.map((value) => value === undefined ? undefined : String(value)), type: "STRING" };
}
