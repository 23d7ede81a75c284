import { readFileSync } from "node:fs";
// Not called here: the import makes the package part of the program, so that its browser build can be found.
import "vega-embed";

/** Scripts and style of the site by file name: everything that its pages load. */
export function siteAssets(): Map<string, string> {
  return new Map([
    ["vega.min.js", browserBuild("vega", "vega.min.js")],
    ["vega-lite.min.js", browserBuild("vega-lite", "vega-lite.min.js")],
    ["vega-embed.min.js", browserBuild("vega-embed", "vega-embed.min.js")],
    ["site.js", SCRIPT],
    ["site.css", STYLE],
  ]);
}

/** The browser build that a package ships beside its main module, without the pointer to its source map. */
function browserBuild(name: string, file: string): string {
  const text = readFileSync(new URL(file, import.meta.resolve(name)), "utf8");
  return text.replace(/\n\/\/# sourceMappingURL=.*\s*$/, "\n");
}

/** Puts the interactive figure in the place of the picture, which stays where this does not run. */
const SCRIPT = `"use strict";
for (const figure of document.querySelectorAll("figure[data-spec]")) {
  const spec = JSON.parse(document.getElementById(figure.dataset.spec).textContent);
  const place = document.createElement("div");
  const picture = figure.querySelector("img");
  const actions = { export: true, source: false, compiled: false, editor: false };
  picture.before(place);
  vegaEmbed(place, spec, { renderer: "svg", actions }).then(
    () => { picture.hidden = true; },
    (error) => { place.remove(); console.error(error); },
  );
}
`;

const STYLE = `:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1d1d1f; --soft: #5a5a60; --line: #d5d5da; --tint: #f4f4f7; --link: #0058a3;
  --good: #0b5d3b; --good-ground: #dff3e8; --bad: #8a1c1c; --bad-ground: #fbe3e1;
  --open: #6b4a00; --open-ground: #fdf0cf; --none: #44444a; --none-ground: #e8e8ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #17171a; --ink: #ececf0; --soft: #b0b0b8; --line: #3c3c44; --tint: #222228; --link: #7cc0ff;
    --good: #a8ecc8; --good-ground: #103d29; --bad: #ffc2bc; --bad-ground: #531a18;
    --open: #ffdf94; --open-ground: #473403; --none: #d0d0d8; --none-ground: #35353c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem; max-width: 90rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Arimo, Arial, sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
p, dd { max-width: 46rem; }
a { color: var(--link); }
.soft, caption, footer { color: var(--soft); }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.claim { min-width: 14rem; max-width: 30rem; }
.printed { min-width: 10rem; }
td p { margin: .25rem 0 0; }
.verdict {
  display: inline-block; padding: .1rem .55rem; border-radius: .7rem; font-weight: 600; white-space: nowrap;
}
.reproduced { color: var(--good); background: var(--good-ground); }
.not-reproduced { color: var(--bad); background: var(--bad-ground); }
.inconclusive { color: var(--open); background: var(--open-ground); }
.not-run-at-this-scale { color: var(--none); background: var(--none-ground); }
figure { margin: 1rem 0 1.75rem; }
figure > div, figure > img {
  display: block; max-width: 100%; overflow-x: auto; background: #ffffff; color: #1d1d1f; border-radius: .4rem;
}
figure > img[hidden] { display: none; }
figure > img { height: auto; }
figcaption { margin-top: .5rem; max-width: 46rem; }
pre { background: var(--tint); padding: .7rem .9rem; border-radius: .4rem; overflow-x: auto; }
code { font: .92em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
.warning { border-left: .3rem solid var(--open); padding-left: .8rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; font-size: .9rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
`;
