import assert from "node:assert/strict";
import { inflateSync } from "node:zlib";
import { table } from "arquero";
import {
  bars,
  display,
  displayTable,
  dotsWithInterval,
  figure,
  type FigureSpec,
  histogram,
  lineWithBand,
  PALETTE,
  scatter,
  tableHTML,
  tableText,
  toPNG,
  toSVG,
} from "../../lib/figures/mod.ts";

const runs = table({
  layer: ["BN", "BN", "BN", "BN", "S0", "S0", "S0", "S0"],
  seed: [1, 1, 2, 2, 1, 1, 2, 2],
  step: [0, 10, 0, 10, 0, 10, 0, 10],
  "acc [%].x": [10, 50, 12, 54, 10, 60, 14, NaN],
});
const text = (name: string) => ({
  name,
  title: `Figure ${name}: γ·z + β`,
  caption: "c",
  alt: `Alt of <${name}>`,
});
const step = { field: "step", title: "training step" };
const accuracy = { field: "acc [%].x", title: "test accuracy (%)" };
const layer = { field: "layer", title: "layer" };
const seed = { field: "seed", title: "seed" };

const figures: readonly FigureSpec[] = [
  lineWithBand(text("line"), { table: runs, x: step, y: accuracy, series: layer }),
  lineWithBand(text("facets"), {
    table: runs,
    x: step,
    y: accuracy,
    series: layer,
    facet: seed,
    band: "none",
  }),
  dotsWithInterval(text("dots"), {
    table: table({ layer: ["BN", "S0"], value: [50, 60], lo: [48, 55], hi: [52, 65] }),
    x: { field: "value", title: "test accuracy (%)" },
    y: layer,
    lo: "lo",
    hi: "hi",
    reference: 50,
    points: table({ layer: ["BN", "BN", "S0"], value: [49, 51, 60] }),
  }),
  bars(text("bars"), { table: runs, x: accuracy, y: layer, series: seed }),
  scatter(text("scatter"), { table: runs, x: step, y: accuracy, series: layer, label: seed }),
  histogram(text("histogram"), { table: runs, x: accuracy, facet: layer }),
];

/** The data inside a spec. */
function valuesOf({ spec }: FigureSpec): Record<string, unknown>[] {
  return (spec as { data: { values: Record<string, unknown>[] } }).data.values;
}

Deno.test("each kind of figure draws: its words, its marks, and the same bytes every time", async () => {
  const first = await Promise.all(figures.map(toSVG));
  const second: string[] = [];
  for (const one of [...figures].reverse()) second.unshift(await toSVG(one));
  assert.deepEqual(first, second);
  first.forEach((svg, i) => {
    const { name } = figures[i]!;
    assert.match(svg, /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    assert.ok(svg.includes(`Figure ${name}: γ·z + β`), name);
    assert.ok(svg.includes(`Alt of &lt;${name}&gt;`), name);
    assert.match(svg, name === "dots" || name !== "histogram" ? /<path[^>]*d="M/ : /role-mark/);
    assert.doesNotMatch(svg, /NaN|undefined|Infinity/);
  });
});

Deno.test("lines are means over seeds in a band from the smallest to the largest; NaN is left out", () => {
  assert.deepEqual(valuesOf(figures[0]!), [
    { x: 0, series: "BN", mean: 11, lo: 10, hi: 12, seeds: 2 },
    { x: 0, series: "S0", mean: 12, lo: 10, hi: 14, seeds: 2 },
    { x: 10, series: "BN", mean: 52, lo: 50, hi: 54, seeds: 2 },
    { x: 10, series: "S0", mean: 60, lo: 60, hi: 60, seeds: 2 },
  ]);
});

Deno.test("a series keeps its colour and order, whatever comes first in the table", async () => {
  const ordered = { ...layer, order: ["S0", "BN"] };
  const svg = await toSVG(lineWithBand(text("line"), { table: runs, x: step, y: accuracy, series: ordered }));
  const legend = [...svg.matchAll(/>(S0|BN)<\/text>/g)].map((match) => match[1]);
  assert.deepEqual(legend, ["S0", "BN"]);
  assert.ok(svg.indexOf(PALETTE[0]!) !== -1 && svg.includes(PALETTE[1]!));
});

Deno.test("a column that is not there is an error that lists those that are", () => {
  assert.throws(
    () => scatter(text("s"), { table: runs, x: { field: "loss", title: "loss" }, y: accuracy }),
    /must include 'loss': current columns are layer, seed, step, acc \[%\]\.x/,
  );
});

Deno.test("data from elsewhere is refused: a figure asks no host for anything", async () => {
  const spec = { data: { url: "https://example.org/a.json" }, mark: "point" };
  await assert.rejects(toSVG(figure(text("url"), spec)), /data must be inline: current data is https/);
  // One failure does not stand in the way of the next figure.
  assert.ok((await toSVG(figures[0]!)).startsWith("<svg"));
});

Deno.test("a spec that Vega-Lite does not know is an error", async () => {
  await assert.rejects(toSVG(figure(text("bad"), { data: { values: [] }, mark: "pie chart" })));
});

/** Share of pixels darker than mid-grey, per PNG of 8-bit RGBA. */
function darkShare(png: Uint8Array): { width: number; dark: number } {
  const view = new DataView(png.buffer, png.byteOffset);
  assert.equal(view.getUint32(0), 0x89504e47);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  assert.deepEqual([png[24], png[25]], [8, 6], "8-bit RGBA");
  const parts: Uint8Array[] = [];
  for (let at = 8; at < png.length; at += 12 + view.getUint32(at)) {
    if (new TextDecoder().decode(png.subarray(at + 4, at + 8)) === "IDAT") {
      parts.push(png.subarray(at + 8, at + 8 + view.getUint32(at)));
    }
  }
  const raw = inflateSync(Buffer.concat(parts));
  const stride = 4 * width;
  let above = new Uint8Array(stride);
  let dark = 0;
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)]!;
    const line = new Uint8Array(raw.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)));
    for (let i = 0; i < stride; i++) {
      const [a, b, c] = [line[i - 4] ?? 0, above[i]!, above[i - 4] ?? 0];
      const p = a + b - c;
      const [da, db, dc] = [Math.abs(p - a), Math.abs(p - b), Math.abs(p - c)];
      const paeth = da <= db && da <= dc ? a : db <= dc ? b : c;
      line[i]! += [0, a, b, (a + b) >> 1, paeth][filter]!;
    }
    for (let i = 0; i < stride; i += 4) if (line[i]! + line[i + 1]! + line[i + 2]! < 384) dark++;
    above = line;
  }
  return { width, dark: dark / (width * height) };
}

Deno.test("PNGs hold the text too, without any font of the system", async () => {
  const words = (letters: string) =>
    figure({ ...text("t"), title: "" }, {
      data: { values: [{ letters }] },
      mark: { type: "text", fontSize: 40 },
      encoding: { text: { field: "letters" } },
    });
  const empty = darkShare(await toPNG(words(" ")));
  for (const letters of ["Accuracy", "γβσμ±×−"]) {
    const { dark } = darkShare(await toPNG(words(letters)));
    assert.ok(dark > empty.dark + 0.01, `${letters}: ${dark} against ${empty.dark}`);
  }
  const wide = darkShare(await toPNG(figures[0]!, { scale: 3 })).width;
  const narrow = darkShare(await toPNG(figures[0]!, { scale: 1 })).width;
  assert.ok(Math.abs(wide / narrow - 3) < 0.02);
});

const jupyter = Symbol.for("Jupyter.display");
type Shown = Record<symbol, () => Promise<Record<string, unknown>>>;

Deno.test("in a notebook a figure is interactive where it can be, and a picture elsewhere", async () => {
  const bundle = await (display(figures[0]!) as unknown as Shown)[jupyter]!();
  assert.deepEqual(Object.keys(bundle), ["application/vnd.vegalite.v5+json", "image/png", "text/plain"]);
  assert.match(JSON.stringify(bundle["application/vnd.vegalite.v5+json"]), /vega-lite\/v6\.json/);
  assert.match(String(bundle["image/png"]), /^iVBORw0KGgo/);
});

Deno.test("tables show as HTML and text, escaped, aligned and cut", async () => {
  const hostile = table({ name: ["<script>", "a & b"], value: [1.23456789, null], "x\"'": [true, false] });
  const bundle = await (displayTable(hostile, { limit: 1 }) as unknown as Shown)[jupyter]!();
  const html = String(bundle["text/html"]);
  assert.ok(html.includes("&lt;script&gt;") && !html.includes("<script>"));
  assert.ok(html.includes("x&quot;&#39;") && html.includes("and 1 more rows"));
  assert.ok(html.includes('<td style="text-align:right">1.2346</td>'));
  assert.ok(!tableHTML(hostile).includes("more rows"));
  assert.equal(
    tableText(hostile),
    "name       value  x\"'\n--------  ------  -----\n<script>  1.2346  true\na & b             false",
  );
});
