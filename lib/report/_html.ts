import { escapeHTML } from "../figures/mod.ts";

/** Text that is HTML already; everything else that goes into {@link markup} is escaped. */
export class Markup {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  toString(): string {
    return this.#text;
  }
}

/** What {@link markup} takes: nothing and `undefined` leave no trace. */
export type Part = Markup | string | number | undefined | readonly Part[];

/** A template of HTML in which every value is escaped, unless it came out of another such template. */
export function markup(strings: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  return new Markup(strings.reduce((text, string, i) => text + render(parts[i - 1]) + string));
}

function render(part: Part): string {
  if (part === undefined) return "";
  if (part instanceof Markup) return part.toString();
  if (typeof part === "object") return part.map(render).join("\n");
  return escapeHTML(String(part));
}

/** A data table. Cells are text or markup; `numeric` columns are aligned to the right. */
export function dataTable(
  caption: string,
  columns: readonly { readonly title: string; readonly numeric?: boolean }[],
  rows: readonly (readonly Part[])[],
): Markup {
  const align = (i: number) => columns[i]?.numeric ? new Markup(' class="number"') : undefined;
  const head = columns.map(({ title }, i) => markup`<th scope="col"${align(i)}>${title}</th>`);
  const line = (row: readonly Part[]) => row.map((cell, i) => markup`<td${align(i)}>${cell}</td>`);
  return markup`<div class="scroll" tabindex="0" role="region" aria-label="${caption}"><table>
<caption>${caption}</caption>
<thead><tr>${head}</tr></thead>
<tbody>${rows.map((row) => markup`<tr>${line(row)}</tr>`)}</tbody>
</table></div>`;
}

/** A whole page. Its body is a header, a main part and a footer. */
export function page(title: string, body: Markup): string {
  return markup`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="assets/site.css">
</head>
<body>
${body}
<script src="assets/vega.min.js"></script>
<script src="assets/vega-lite.min.js"></script>
<script src="assets/vega-embed.min.js"></script>
<script src="assets/site.js"></script>
</body>
</html>
`.toString();
}

/** JSON inside a script element, where the text `</script` would end it. */
export function jsonScript(id: string, value: unknown): Markup {
  const json = JSON.stringify(value).replaceAll("<", "\\u003c");
  return new Markup(`<script type="application/json" id="${escapeHTML(id)}">${json}</script>`);
}

/** Paragraphs of a text in which they are separated by empty lines. */
export function paragraphs(text: string): Markup[] {
  return text.trim().split(/\n\s*\n/).map((paragraph) => markup`<p>${paragraph}</p>`);
}

/** A number to four significant digits; a dash where there is none. */
export function number(value: number): string {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return String(Number(value.toPrecision(4))).replace("-", "−");
}
