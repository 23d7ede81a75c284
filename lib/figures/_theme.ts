/**
 * Okabe and Ito's colours, which people with any kind of colour vision can tell apart ("Color Universal Design",
 * 2008), without the yellow that fades on white; darkest first.
 */
export const PALETTE: readonly string[] = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#555555",
];

/** Arimo ships with the kit; it has the widths of Arial and Liberation Sans, which stand in where a page is read. */
export const FONT = 'Arimo, Arial, "Liberation Sans", Helvetica, sans-serif';

const INK = "#222222";
const FAINT = "#dddddd";

/** Vega-Lite config of all figures: white ground (so that they are read on a dark page too), 12 px and more. */
export const THEME = {
  background: "#ffffff",
  font: FONT,
  padding: 10,
  view: { stroke: "transparent", continuousWidth: 480, continuousHeight: 300, discreteWidth: 480 },
  title: { anchor: "start", fontSize: 15, fontWeight: 600, color: INK, offset: 12 },
  axis: {
    labelFontSize: 12,
    titleFontSize: 13,
    titleFontWeight: 400,
    titlePadding: 8,
    labelColor: INK,
    titleColor: INK,
    gridColor: FAINT,
    domainColor: "#888888",
    tickColor: "#888888",
    labelLimit: 260,
  },
  axisX: { grid: false },
  legend: {
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: 400,
    labelColor: INK,
    titleColor: INK,
    labelLimit: 260,
  },
  header: { labelFontSize: 13, titleFontSize: 13, labelColor: INK, titleColor: INK },
  range: { category: PALETTE },
  line: { strokeWidth: 2 },
  point: { size: 60 },
  mark: { color: PALETTE[0] },
  rule: { color: PALETTE[0] },
} as const;
