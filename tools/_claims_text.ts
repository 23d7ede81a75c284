import { table } from "arquero";
import { duration, type RunOutcome } from "../lib/experiment/mod.ts";
import { tableText } from "../lib/figures/mod.ts";
import type { ResultsPage } from "../lib/report/mod.ts";

/** The claims of some results as a table for the terminal. */
export function claimsText(views: readonly ResultsPage[]): string {
  const rows = views.flatMap(({ experiment, label, claims }) =>
    claims.map((claim) => ({ experiment: experiment.id, label, claim }))
  );
  if (rows.length === 0) return "No claims: there are no results yet.";
  const column = (pick: (row: (typeof rows)[number]) => string) => rows.map(pick);
  const digits = (value: number) =>
    Number.isFinite(value) ? String(Number(value.toPrecision(4))) : String(value);
  return tableText(table({
    experiment: column((row) => row.experiment),
    claim: column((row) => row.claim.id),
    "scale, backend": column((row) => row.label),
    paper: column(({ claim }) => claim.printed === undefined ? "" : String(claim.printed.value)),
    measured: column(({ claim }) => claim.seeds === 0 ? "" : digits(claim.estimate)),
    "95% interval": column(({ claim: { seeds, interval: [lo, hi] } }) =>
      seeds === 0 ? "" : `${digits(lo)} to ${digits(hi)}`
    ),
    seeds: column(({ claim }) => String(claim.seeds)),
    verdict: column(({ claim }) => claim.verdict),
  }));
}

/** A run in a line, and its failures and warnings in others. */
export function outcomeText(outcome: RunOutcome): string {
  const { experiment, scale, backend, ran, stored, failed, seconds, warnings } = outcome;
  const counts = [`${ran} run`, `${stored} in the store already`];
  if (failed.length > 0) counts.push(`${failed.length} FAILED`);
  const device = `${backend.name} (${backend.device}${backend.software ? ", software" : ""})`;
  return [
    `${experiment} ${scale} on ${device}: ${counts.join(", ")}; ${duration(seconds)}`,
    ...warnings.map((warning) => `warning: ${warning}`),
    ...failed.map(({ trial, reason }) => `failed: ${trial.name}: ${reason}`),
  ].join("\n");
}
