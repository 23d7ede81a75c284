import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
// Importing any file of the package makes its fonts resolvable; the package's code is made for bundlers.
import arimo from "@expo-google-fonts/arimo/package.json" with { type: "json" };
import { loader, parse, resetSVGDefIds, type Spec, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { escapeHTML } from "./_escape.ts";
import type { FigureSpec } from "./_types.ts";

/** Vega numbers the ids of its definitions across figures: one at a time, each from zero, gives the same bytes. */
let turn: Promise<unknown> = Promise.resolve();

/**
 * Draws a figure as SVG: the same bytes for the same figure. Needs no browser and no network.
 *
 * Throws Error for a spec that Vega-Lite does not accept, or one whose data is not inline.
 *
 * ```ts
 * import { figure, toSVG } from "@normlab/normlab/figures";
 * const text = { name: "dots", title: "Dots", caption: "Two dots.", alt: "Two dots." };
 * const encoding = { x: { field: "x", type: "quantitative" } };
 * const dots = figure(text, { data: { values: [{ x: 1 }, { x: 2 }] }, mark: "point", encoding });
 * console.log((await toSVG(dots)).startsWith("<svg")); // true
 * ```
 */
export function toSVG(figure: FigureSpec): Promise<string> {
  const drawn = turn.then(() => draw(figure));
  turn = drawn.catch(() => {});
  return drawn;
}

async function draw({ name, alt, spec }: FigureSpec): Promise<string> {
  const logger = strictLogger(name);
  // A copy: Vega marks the data that it draws.
  const vega: Spec = compile(structuredClone(spec) as TopLevelSpec, { logger }).spec;
  for (const data of vega.data ?? []) if ("url" in data) refuseLoading(name, String(data.url));
  const offline = loader();
  offline.load = (uri: string) => refuseLoading(name, uri);
  const view = new View(parse(vega), { renderer: "none", loader: offline, logger });
  try {
    resetSVGDefIds();
    const svg = await view.toSVG();
    return svg.replace("<svg ", `<svg role="img" aria-label="${escapeHTML(alt)}" `);
  } finally {
    view.finalize();
  }
}

function refuseLoading(name: string, uri: string): never {
  throw new Error(`Cannot draw figure '${name}' as its data must be inline: current data is ${uri}`);
}

/** Vega reports some errors (data that did not load) and all doubts to its logger only: errors are thrown here. */
function strictLogger(name: string) {
  const logger = {
    level: () => logger,
    error(...words: unknown[]): never {
      throw new Error(`Cannot draw figure '${name}': ${words.map(String).join(" ")}`);
    },
    warn: () => logger,
    info: () => logger,
    debug: () => logger,
  };
  // The level is never asked for: as a getter it would be a number.
  return logger as never;
}

/** Settings of {@link toPNG}. */
export interface PNGSettings {
  /** Pixels per unit of the SVG. Default 2. */
  readonly scale?: number;
}

/** Draws a figure as PNG, with the kit's own font, so that it looks the same on a machine without fonts. */
export async function toPNG(figure: FigureSpec, { scale = 2 }: PNGSettings = {}): Promise<Uint8Array> {
  const svg = await toSVG(figure);
  // A native library: loaded by those who draw pixels only.
  const { Resvg } = await import("@resvg/resvg-js");
  const family = "Arimo";
  const renderer = new Resvg(svg, {
    fitTo: { mode: "zoom", value: scale },
    font: {
      loadSystemFonts: false,
      fontFiles: fontFiles(),
      defaultFontFamily: family,
      sansSerifFamily: family,
    },
  });
  return renderer.render().asPng();
}

/** Paths of the kit's fonts. Throws Error where the package was installed incompletely. */
function fontFiles(): string[] {
  return ["400Regular/Arimo_400Regular.ttf", "600SemiBold/Arimo_600SemiBold.ttf", "700Bold/Arimo_700Bold.ttf"]
    .map((path) => {
      const url = new URL(import.meta.resolve(`${arimo.name}/${path}`));
      readFileSync(url); // resvg passes over a file that it cannot read, and text with it
      return fileURLToPath(url);
    });
}
