import { duration, type Experiment } from "../experiment/mod.ts";
import { CLAIM_COLUMNS, claimCells, pageFile } from "./_claims_table.ts";
import { dataTable, type Markup, markup, page, type Part } from "./_html.ts";
import { type ResultsPage, runFacts, SCALE_NOTES } from "./_view.ts";

/** The first page: every claim of every experiment, for every scale and backend that there are results of. */
export function indexPage(experiments: readonly Experiment[], views: readonly ResultsPage[]): string {
  const scales = [...new Set(views.map(({ results }) => results.scale))];
  const entries = experiments.map((experiment) =>
    entry(experiment, views.filter((view) => view.experiment === experiment))
  );
  return page(
    "Normlab: what the papers claim and what was measured",
    markup`<header><h1>Normlab: what the papers claim and what was measured</h1></header>
<main>
<p>Two papers on normalisation, claim by claim: what they print, what was measured here and how sure that is. A verdict
comes from the interval over seeds: <em>reproduced</em> where all of it is on the claim's side of the threshold,
<em>not reproduced</em> where none of it is, <em>inconclusive</em> otherwise or with fewer than three seeds.</p>
<ul>${scales.map((scale) => markup`<li>${SCALE_NOTES[scale]}</li>`)}</ul>
<h2>Claims</h2>
${claimsTable(views)}
<h2>Experiments</h2>
${entries}
</main>
<footer><p>Made by <code>deno task normlab report</code>. Every number on these pages comes from the rows that each page
offers for download.</p></footer>`,
  );
}

function claimsTable(views: readonly ResultsPage[]): Markup {
  const rows = views.flatMap((view) =>
    view.claims.map((claim): Part[] => [...claimCells(claim), runCell(view)])
  );
  if (rows.length === 0) return markup`<p>There are no results yet.</p>`;
  const columns = [...CLAIM_COLUMNS, { title: "Experiment, commit, cost" }];
  return dataTable("All claims, largest scale first", columns, rows);
}

/** Where the numbers of a claim come from: one cell, so that the table fits a page. */
function runCell({ experiment, key, results, label }: ResultsPage): Part {
  const { commits, computeSeconds } = runFacts(results);
  const incomplete = results.missing.length === 0
    ? undefined
    : markup`<p class="soft">${results.trials.length} of ${
      results.trials.length + results.missing.length
    } trials</p>`;
  return markup`<a href="${
    pageFile(experiment)
  }#${key}">${experiment.id}</a><p class="soft">${label}</p>${incomplete}
<p class="soft">${commits.join(", ")}</p><p class="soft">${duration(computeSeconds)} of one core</p>`;
}

function entry(experiment: Experiment, views: readonly ResultsPage[]): Markup {
  const links = views.map(({ key, label }) =>
    markup`<li><a href="${pageFile(experiment)}#${key}">${label}</a></li>`
  );
  const commands = experiment.scales.map((scale) => `${scale} (${experiment.cost[scale]})`).join("; ");
  return markup`<h3><a href="${pageFile(experiment)}">${experiment.title}</a></h3>
<p class="soft">${experiment.id}, after ${experiment.source}. Scales: ${commands}.</p>
${
    links.length > 0
      ? markup`<ul>${links}</ul>`
      : markup`<p>Not run yet. To run it: <code>deno task normlab run ${experiment.id} --scale smoke</code></p>`
  }`;
}
