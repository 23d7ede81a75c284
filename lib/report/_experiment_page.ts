import { duration, type Experiment } from "../experiment/mod.ts";
import { tableHTML } from "../figures/mod.ts";
import { CLAIM_COLUMNS, claimCells } from "./_claims_table.ts";
import { dataTable, jsonScript, Markup, markup, page, paragraphs } from "./_html.ts";
import { rerunCommand, type ResultsPage, runFacts, SCALE_NOTES } from "./_view.ts";

/** Paths, from the page, of the files of one set of results. */
export interface ResultFiles {
  /** By name of the figure. */
  readonly figures: ReadonlyMap<string, string>;
  /** By name of the table. */
  readonly tables: ReadonlyMap<string, string>;
  readonly others: ReadonlyMap<string, string>;
  readonly parquet: string;
  /** By name of the trial; empty where they would make the site too large. */
  readonly arrow: ReadonlyMap<string, string>;
}

/** The page of one experiment: method, then each set of results with claims, figures, tables and provenance. */
export function experimentPage(
  experiment: Experiment,
  views: readonly { readonly view: ResultsPage; readonly files: ResultFiles }[],
): string {
  const results = views.length > 0
    ? [
      contents(views.map(({ view }) => view)),
      ...views.map(({ view, files }) => resultsSection(view, files)),
    ]
    : [markup`<p>Not run yet. To run it:</p>
<pre><code>deno task normlab run ${experiment.id} --scale smoke</code></pre>`];
  return page(
    `${experiment.title} – Normlab`,
    markup`<header>
<p><a href="index.html">All claims</a></p>
<h1>${experiment.title}</h1>
<p class="soft">${experiment.id}, after ${experiment.source}</p>
</header>
<main>
${paragraphs(experiment.summary)}
${results}
</main>
<footer><p><a href="index.html">All claims</a></p></footer>`,
  );
}

function contents(views: readonly ResultsPage[]): Markup {
  const links = views.map(({ key, label }) => markup`<li><a href="#${key}">Results: ${label}</a></li>`);
  return markup`<nav aria-label="Results on this page"><ul>${links}</ul></nav>`;
}

function resultsSection(view: ResultsPage, files: ResultFiles): Markup {
  const { key, label, claims, gaps, results } = view;
  const { failed, missing, trials, scale } = results;
  const problems = [
    ...gaps,
    ...(missing.length === 0
      ? []
      : [`${missing.length} of ${missing.length + trials.length} trials have not been run.`]),
    ...failed.map(({ trial, reason }) => `Trial ${trial.name} failed: ${reason.split("\n")[0]}`),
  ];
  return markup`<section aria-labelledby="${key}">
<h2 id="${key}">Results: ${label}</h2>
<p class="soft">${SCALE_NOTES[scale]}</p>
${problems.map((problem) => markup`<p class="warning">${problem}</p>`)}
${claims.length === 0 ? undefined : dataTable(`Claims, ${label}`, CLAIM_COLUMNS, claims.map(claimCells))}
${view.figures.map((figure) => figureElement(view, files, figure))}
${tables(view, files)}
${[...files.others].map(([name, path]) => markup`<p><a href="${path}" download>${name}</a></p>`)}
${provenance(view, files)}
</section>`;
}

function figureElement(
  { key }: ResultsPage,
  files: ResultFiles,
  figure: ResultsPage["figures"][number],
): Markup {
  const { name, alt, caption, spec } = figure;
  const id = `${key}-${name}`;
  const path = files.figures.get(name);
  return markup`<figure data-spec="${id}">
<img src="${path}" alt="${alt}">
<figcaption>${caption} <a href="${path}" download>SVG</a></figcaption>
${jsonScript(id, spec)}
</figure>`;
}

function tables({ tables, label }: ResultsPage, files: ResultFiles): Markup[] {
  return Object.entries(tables).map(([name, table]) =>
    markup`<h3>Table: ${name} (${label})</h3>
<div class="scroll">${new Markup(tableHTML(table, 200))}</div>
<p><a href="${files.tables.get(name)}" download>${name}.csv</a></p>`
  );
}

function provenance({ experiment, results, label }: ResultsPage, files: ResultFiles): Markup {
  const facts = runFacts(results);
  const first = facts.starts[0] ?? "";
  const last = facts.starts.at(-1) ?? "";
  const entries: [string, string][] = [
    ["Trials", `${results.trials.length} of ${results.trials.length + results.missing.length}`],
    ["Backend", `${results.backend}, ${facts.devices.join("; ")}`],
    ["CPU", facts.cpus.join("; ")],
    ["Computing time", `${duration(facts.computeSeconds)}, summed over trials`],
    ["Peak memory", `${facts.peakMiB} MiB in one process`],
    ["Run", first === last ? first : `from ${first} to ${last}`],
    ["Commit", facts.commits.join(", ")],
    ["Versions", facts.versions.join("; ")],
    ["Lock file (sha256)", facts.locks.join(", ")],
  ];
  const definitions = entries.map(([term, fact]) => markup`<dt>${term}</dt><dd>${fact}</dd>`);
  return markup`<h3>Provenance (${label})</h3>
<dl>${definitions}</dl>
<p>To run this again:</p>
<pre><code>${rerunCommand(experiment, results)}</code></pre>
<p>All rows in one file: <a href="${files.parquet}" download>rows.parquet</a> (pyarrow, polars, DuckDB).</p>
<details><summary>Trials, one by one</summary>
${trialTable(results, files, label)}
</details>`;
}

function trialTable(results: ResultsPage["results"], files: ResultFiles, label: string): Markup {
  const notes = [...new Set(results.trials.flatMap(({ provenance }) => Object.keys(provenance.notes)))];
  const columns = [
    { title: "Trial" },
    { title: "Seed", numeric: true },
    { title: "Time", numeric: true },
    { title: "Peak memory (MiB)", numeric: true },
    ...notes.map((title) => ({ title, numeric: true })),
    { title: "Rows" },
  ];
  const rows = results.trials.map(({ provenance: { trial, seconds, peakMiB, notes: values } }) => {
    const arrow = files.arrow.get(trial.name);
    return [
      trial.name,
      String(trial.seed),
      duration(seconds),
      String(peakMiB),
      ...notes.map((name) => String(values[name] ?? "")),
      arrow === undefined ? "in the results folder" : markup`<a href="${arrow}" download>Arrow</a>`,
    ];
  });
  return dataTable(`Trials, ${label}`, columns, rows);
}
