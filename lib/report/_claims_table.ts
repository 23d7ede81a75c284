import type { Claim, Experiment, Verdict } from "../experiment/mod.ts";
import { type Markup, markup, number, type Part } from "./_html.ts";

/** The verdict in words and colour. */
export function verdictBadge(verdict: Verdict): Markup {
  return markup`<span class="verdict ${verdict.replaceAll(" ", "-")}">${verdict}</span>`;
}

/** Titles of the columns that {@link claimCells} fills. */
export const CLAIM_COLUMNS = [
  { title: "Claim" },
  { title: "Paper" },
  { title: "Measured here", numeric: true },
  { title: "95% interval", numeric: true },
  { title: "Seeds", numeric: true },
  { title: "Verdict" },
];

/** A claim as the cells of a table's row. */
export function claimCells(claim: Claim): Part[] {
  const { statement, measure, printed, estimate, interval: [lo, hi], seeds, verdict, note } = claim;
  const measured = seeds > 0;
  const remark = note === undefined ? undefined : markup`<p class="soft">${note}</p>`;
  const condition = markup`<p class="soft">${measure}, ${claim.direction} ${number(claim.threshold)}</p>`;
  return [
    markup`<div class="claim">${statement}${condition}${remark}</div>`,
    printed === undefined
      ? "–"
      : markup`<div class="printed">${
        printedValue(printed.value)
      }<p class="soft">${printed.source}</p></div>`,
    measured ? number(estimate) : "–",
    measured ? `${number(lo)} to ${number(hi)}` : "–",
    String(seeds),
    verdictBadge(verdict),
  ];
}

function printedValue(value: string | number): string {
  return typeof value === "number" ? number(value) : value;
}

/** File name of an experiment's page. */
export function pageFile(experiment: Experiment): string {
  return `${experiment.id.replaceAll("/", "-")}.html`;
}
