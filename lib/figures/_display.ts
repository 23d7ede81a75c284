import type { ColumnTable } from "arquero";
import { escapeHTML } from "./_escape.ts";
import { toPNG } from "./_render.ts";
import type { FigureSpec } from "./_types.ts";

/** The method that Deno's notebook kernel calls on the value of a cell. */
const JUPYTER_DISPLAY = Symbol.for("Jupyter.display");

/** Contents by media type. */
export type MimeBundle = Record<string, string | object>;

/** The value of a notebook cell that shows itself. */
export interface Displayable {
  [JUPYTER_DISPLAY](): Promise<MimeBundle>;
}

/**
 * A figure as the last value of a notebook cell.
 *
 * JupyterLab draws Vega-Lite 6 under the media type of version 5 only; where nothing draws Vega-Lite (nbconvert,
 * code hosts), the PNG is shown.
 */
export function display(figure: FigureSpec): Displayable {
  return {
    async [JUPYTER_DISPLAY]() {
      return {
        "application/vnd.vegalite.v5+json": figure.spec,
        "image/png": (await toPNG(figure)).toBase64(),
        "text/plain": `${figure.title}: ${figure.alt}`,
      };
    },
  };
}

/** An HTML or SVG text as the last value of a notebook cell; `alt` is what is shown where HTML is not. */
export function displayHTML(html: string, alt: string): Displayable {
  return { [JUPYTER_DISPLAY]: () => Promise.resolve({ "text/html": html, "text/plain": alt }) };
}

/** Markdown, with LaTeX between dollar signs, as the last value of a notebook cell. */
export function displayMarkdown(markdown: string): Displayable {
  return { [JUPYTER_DISPLAY]: () => Promise.resolve({ "text/markdown": markdown, "text/plain": markdown }) };
}

/** Settings of {@link displayTable}. */
export interface TableSettings {
  /** Rows that are shown. Default 20. */
  readonly limit?: number;
}

/** A table as the last value of a notebook cell, in HTML and as text. */
export function displayTable(table: ColumnTable, { limit = 20 }: TableSettings = {}): Displayable {
  return {
    [JUPYTER_DISPLAY]: () =>
      Promise.resolve({
        "text/html": tableHTML(table, limit),
        "text/plain": tableText(table, limit),
      }),
  };
}

/** The table as an HTML element: every cell escaped, numbers aligned to the right. */
export function tableHTML(table: ColumnTable, limit = Infinity): string {
  const names = table.columnNames();
  const rows = rowsOf(table, limit);
  const numeric = names.map((name) =>
    rows.every((row) => row[name] === null || typeof row[name] === "number")
  );
  const cell = (tag: string, text: string, right: boolean) =>
    `<${tag}${right ? ' style="text-align:right"' : ""}>${escapeHTML(text)}</${tag.split(" ")[0]}>`;
  const head = names.map((name, i) => cell('th scope="col"', name, numeric[i]!)).join("");
  const body = rows.map((row) =>
    `<tr>${names.map((name, i) => cell("td", formatCell(row[name]), numeric[i]!)).join("")}</tr>`
  );
  const rest = table.numRows() - rows.length;
  const note = rest > 0 ? `<p>and ${rest} more rows</p>` : "";
  return `<table><thead><tr>${head}</tr></thead><tbody>${body.join("\n")}</tbody></table>${note}`;
}

/** The table in columns of plain text, for a terminal. */
export function tableText(table: ColumnTable, limit = Infinity): string {
  const names = table.columnNames();
  const rows = rowsOf(table, limit);
  const lines = [names, ...rows.map((row) => names.map((name) => formatCell(row[name])))];
  const widths = names.map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
  const numeric = names.map((name) =>
    rows.every((row) => row[name] === null || typeof row[name] === "number")
  );
  const pad = (text: string, i: number) => numeric[i] ? text.padStart(widths[i]!) : text.padEnd(widths[i]!);
  const text = lines.map((line) => line.map(pad).join("  ").trimEnd());
  text.splice(1, 0, widths.map((width) => "-".repeat(width)).join("  "));
  const rest = table.numRows() - rows.length;
  if (rest > 0) text.push(`and ${rest} more rows`);
  return text.join("\n");
}

function rowsOf(table: ColumnTable, limit: number): Record<string, unknown>[] {
  return table.objects({ limit }) as Record<string, unknown>[];
}

/** Whole numbers as they are, others to five significant digits. */
function formatCell(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
}
