/**
 * Figures and tables to look at: from arquero tables to Vega-Lite, SVG, PNG and notebook cells.
 *
 * A figure is data, a {@link FigureSpec}: Vega-Lite with its data inline, and the words that go with it, among them
 * what it says to someone who cannot see it. {@link lineWithBand}, {@link dotsWithInterval}, {@link bars},
 * {@link scatter} and {@link histogram} make the common ones in one theme, readable on white with any colour vision;
 * {@link figure} takes any other spec. {@link toSVG} and {@link toPNG} draw it the same way on every machine, and
 * {@link display} shows it in a notebook.
 *
 * @module
 */
export * from "./_types.ts";
export {
  bars,
  type BarSettings,
  dotsWithInterval,
  figure,
  histogram,
  type HistogramSettings,
  type IntervalSettings,
  type LineSettings,
  lineWithBand,
  scatter,
  type ScatterSettings,
} from "./_charts.ts";
export {
  display,
  type Displayable,
  displayHTML,
  displayMarkdown,
  displayTable,
  type MimeBundle,
  tableHTML,
  type TableSettings,
  tableText,
} from "./_display.ts";
export { escapeHTML } from "./_escape.ts";
export { type PNGSettings, toPNG, toSVG } from "./_render.ts";
export { FONT, PALETTE, THEME } from "./_theme.ts";
