import { type ColumnTable, from, op } from "arquero";
import { THEME } from "./_theme.ts";
import type { Axis, Channel, FigureSpec, FigureText, Names } from "./_types.ts";

const SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json";

type Value = string | number | boolean | null;
type Datum = Record<string, Value>;

/** A figure of any Vega-Lite spec: adds schema, theme, title and description; data must be inline. */
export function figure(text: FigureText, spec: object): FigureSpec {
  const { name, title, caption, alt } = text;
  const full = { $schema: SCHEMA, title, description: alt, config: THEME, ...spec };
  return { name, title, caption, alt, spec: full };
}

/** Settings of {@link lineWithBand}. */
export interface LineSettings {
  readonly table: ColumnTable;
  readonly x: Axis;
  readonly y: Axis;
  /** One line and colour each. */
  readonly series?: Names;
  /** One panel each, side by side. */
  readonly facet?: Names;
  /** `range`: smallest to largest over what shares x and series, the seeds as a rule; `none`: no band. */
  readonly band?: "range" | "none";
}

/** Curves: the mean over the rows that share x and series (the seeds), in a band from the smallest to the largest. */
export function lineWithBand(text: FigureText, settings: LineSettings): FigureSpec {
  const { table, x, y, series, facet, band = "range" } = settings;
  const keys = { x: x.field, ...fields({ series, facet }) };
  const values = from(picked(table, { ...keys, y: y.field }))
    .groupby(...Object.keys(keys))
    .rollup({ mean: op.mean("y"), lo: op.min("y"), hi: op.max("y"), seeds: op.count() })
    .orderby("x")
    .objects() as Datum[];
  const encoding = { x: axis("x", x), ...colour(series) };
  const tooltip = [
    ...(series === undefined ? [] : [{ field: "series", title: series.title }]),
    { field: "x", type: "quantitative", title: x.title },
    { field: "mean", type: "quantitative", title: `mean ${y.title}`, format: y.format ?? ".4~g" },
    { field: "lo", type: "quantitative", title: "smallest", format: y.format ?? ".4~g" },
    { field: "hi", type: "quantitative", title: "largest", format: y.format ?? ".4~g" },
    { field: "seeds", type: "quantitative", title: "seeds" },
  ];
  const line = {
    mark: { type: "line", point: values.length <= 60 ? { size: 25 } : false, clip: y.domain !== undefined },
    encoding: { ...encoding, y: axis("mean", y), tooltip },
  };
  const area = {
    mark: { type: "area", opacity: 0.18, line: false, clip: y.domain !== undefined },
    encoding: { ...encoding, y: axis("lo", y), y2: { field: "hi" } },
  };
  return figure(text, panels({ layer: band === "none" ? [line] : [area, line] }, values, facet));
}

/** Settings of {@link dotsWithInterval}. */
export interface IntervalSettings {
  /** One row per dot. */
  readonly table: ColumnTable;
  /** What is compared: one line each. */
  readonly y: Names;
  readonly x: Axis;
  /** Columns of the interval's ends; without them, dots only. */
  readonly lo?: string;
  readonly hi?: string;
  readonly series?: Names;
  readonly facet?: Names;
  /** A value to compare with, drawn as a dashed rule. */
  readonly reference?: number;
  /** Single values behind the dots (the seeds), with the same columns. */
  readonly points?: ColumnTable;
}

/** Estimates with their intervals, one line per name: the figure for a table of accuracies. */
export function dotsWithInterval(text: FigureText, settings: IntervalSettings): FigureSpec {
  const { table, x, y, lo, hi, series, facet, reference, points } = settings;
  const keys = { x: x.field, name: y.field, ...fields({ series, facet }) };
  const ends = lo === undefined || hi === undefined ? {} : { lo, hi };
  const values = picked(table, { ...keys, ...ends });
  const order = y.order ?? unique(values, "name");
  const place = {
    y: { field: "name", type: "nominal", title: y.title === "" ? null : y.title, sort: order },
    ...(series === undefined ? {} : { yOffset: { field: "series", sort: series.order ?? null } }),
  };
  const shared = { ...place, ...colour(series) };
  const tooltip = [
    { field: "name", title: y.title },
    ...(series === undefined ? [] : [{ field: "series", title: series.title }]),
    { field: "x", type: "quantitative", title: x.title, format: x.format ?? ".4~g" },
    ...Object.keys(ends).map((end) => ({
      field: end,
      type: "quantitative",
      title: end === "lo" ? "interval from" : "to",
      format: x.format ?? ".4~g",
    })),
  ];
  const layer: object[] = [];
  if (reference !== undefined) {
    layer.push({
      mark: { type: "rule", strokeDash: [4, 4], color: "#888888" },
      encoding: { x: { datum: reference } },
    });
  }
  if (points !== undefined) {
    layer.push({
      transform: [{ filter: "datum.kind === 'point'" }],
      mark: { type: "tick", thickness: 2, size: 14, opacity: 0.45 },
      encoding: {
        ...shared,
        x: axis("x", x, true),
        tooltip: tooltip.slice(0, -Object.keys(ends).length || undefined),
      },
    });
  }
  const whole = { transform: [{ filter: "datum.kind === 'estimate'" }] };
  if ("lo" in ends) {
    layer.push({
      ...whole,
      mark: { type: "rule", strokeWidth: 2.5 },
      encoding: { ...shared, x: axis("lo", x, true), x2: { field: "hi" }, tooltip },
    });
  }
  layer.push({
    ...whole,
    mark: { type: "point", filled: true, size: 110, opacity: 1 },
    encoding: { ...shared, x: axis("x", x, true), tooltip },
  });
  const all = [
    ...values.map((value) => ({ ...value, kind: "estimate" })),
    ...(points === undefined ? [] : picked(points, keys).map((value) => ({ ...value, kind: "point" }))),
  ];
  return figure(text, panels({ layer, height: { step: series === undefined ? 34 : 18 } }, all, facet));
}

/** Settings of {@link bars}. */
export interface BarSettings {
  readonly table: ColumnTable;
  /** What is compared: one bar each. */
  readonly y: Names;
  readonly x: Axis;
  readonly series?: Names;
  readonly facet?: Names;
}

/** Bars from zero, for counts and costs. */
export function bars(text: FigureText, settings: BarSettings): FigureSpec {
  const { table, x, y, series, facet } = settings;
  const values = picked(table, { x: x.field, name: y.field, ...fields({ series, facet }) });
  const encoding = {
    y: {
      field: "name",
      type: "nominal",
      title: y.title === "" ? null : y.title,
      sort: y.order ?? unique(values, "name"),
    },
    ...(series === undefined ? {} : { yOffset: { field: "series", sort: series.order ?? null } }),
    x: zeroBased(axis("x", x)),
    ...colour(series),
    tooltip: [
      { field: "name", title: y.title },
      ...(series === undefined ? [] : [{ field: "series", title: series.title }]),
      { field: "x", type: "quantitative", title: x.title, format: x.format ?? ".4~g" },
    ],
  };
  return figure(
    text,
    panels({ mark: "bar", height: { step: series === undefined ? 26 : 16 }, encoding }, values, facet),
  );
}

/** Settings of {@link scatter}. */
export interface ScatterSettings {
  readonly table: ColumnTable;
  readonly x: Axis;
  readonly y: Axis;
  readonly series?: Names;
  readonly facet?: Names;
  /** Column with a name for each dot, shown when pointed at. */
  readonly label?: Channel;
}

/** A dot per row. */
export function scatter(text: FigureText, settings: ScatterSettings): FigureSpec {
  const { table, x, y, series, facet, label } = settings;
  const keys = { x: x.field, y: y.field, ...fields({ series, facet, label }) };
  const values = picked(table, keys);
  const encoding = {
    x: axis("x", x),
    y: axis("y", y),
    ...colour(series),
    tooltip: [
      ...(label === undefined ? [] : [{ field: "label", title: label.title }]),
      ...(series === undefined ? [] : [{ field: "series", title: series.title }]),
      { field: "x", type: "quantitative", title: x.title, format: x.format ?? ".4~g" },
      { field: "y", type: "quantitative", title: y.title, format: y.format ?? ".4~g" },
    ],
  };
  return figure(
    text,
    panels({ mark: { type: "point", filled: true, opacity: 0.7 }, encoding }, values, facet),
  );
}

/** Settings of {@link histogram}. */
export interface HistogramSettings {
  readonly table: ColumnTable;
  readonly x: Axis;
  readonly facet?: Names;
  /** At most so many bars. Default 40. */
  readonly bins?: number;
}

/** How many rows have a value in each of equal intervals. */
export function histogram(text: FigureText, settings: HistogramSettings): FigureSpec {
  const { table, x, facet, bins = 40 } = settings;
  const values = picked(table, { x: x.field, ...fields({ facet }) });
  const encoding = {
    x: { field: "x", type: "quantitative", title: x.title, bin: { maxbins: bins } },
    y: { aggregate: "count", type: "quantitative", title: "count" },
    tooltip: [
      { field: "x", bin: { maxbins: bins }, title: x.title },
      { aggregate: "count", title: "count" },
    ],
  };
  return figure(text, panels({ mark: "bar", encoding }, values, facet));
}

interface AxisEncoding {
  readonly scale: { readonly type: string; readonly [key: string]: unknown };
  readonly [key: string]: unknown;
}

/** Encoding of a numeric axis; zero is shown only where the data spans it, as bars alone stand on it. */
function axis(
  field: string,
  { title, scale = "linear", domain, format }: Axis,
  padded = false,
): AxisEncoding {
  return {
    field,
    type: "quantitative",
    title,
    scale: {
      type: scale,
      ...(domain === undefined
        ? { zero: false, ...(padded ? { padding: 10 } : {}) }
        : { domain: [...domain] }),
    },
    ...(format === undefined ? {} : { axis: { format } }),
  };
}

/** The length of a bar is its value only where the axis starts at zero. */
function zeroBased(encoding: AxisEncoding): AxisEncoding {
  return { ...encoding, scale: { type: encoding.scale.type, zero: true } };
}

/** Colour by series, which is also the legend. */
function colour(series: Names | undefined): object {
  if (series === undefined) return {};
  const { title, order } = series;
  const scale = order === undefined ? {} : { scale: { domain: [...order] } };
  // The legend of a band would be as faint as the band.
  const legend = { symbolOpacity: 1 };
  return { color: { field: "series", type: "nominal", title, sort: order ?? null, legend, ...scale } };
}

/** The figure's data with its marks, in one panel or one for each name. */
function panels(marks: object, values: readonly Datum[], facet: Names | undefined): object {
  const data = { values };
  if (facet === undefined) return { data, ...marks };
  const { title, order } = facet;
  const header = { title: title === "" ? null : title };
  const column = { field: "facet", type: "nominal", sort: order ?? null, header };
  return { data, facet: { column }, spec: { width: 300, ...marks } };
}

/** Roles with their columns, leaving out those that are not used. */
function fields(channels: Record<string, Channel | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(channels).flatMap(([role, channel]) =>
      channel === undefined ? [] : [[role, channel.field]]
    ),
  );
}

/**
 * The rows with columns named by role: the names of params may hold dots and brackets, which Vega-Lite reads as
 * paths. Throws RangeError for a column that the table lacks.
 */
function picked(table: ColumnTable, columns: Record<string, string>): Datum[] {
  checkColumns(table, Object.values(columns));
  return (table.objects() as Datum[]).map((row) =>
    Object.fromEntries(Object.entries(columns).map(([role, column]) => [role, plain(row[column])]))
  );
}

/** JSON has no NaN and no infinities: Vega-Lite leaves null out of the picture. */
function plain(value: Value | undefined): Value {
  return value === undefined || (typeof value === "number" && !Number.isFinite(value)) ? null : value;
}

function checkColumns(table: ColumnTable, columns: readonly string[]): void {
  const missing = columns.find((column) => !table.columnNames().includes(column));
  if (missing !== undefined) {
    throw new RangeError(
      `Cannot draw the table as its columns must include '${missing}': current columns are ${
        table.columnNames().join(", ")
      }`,
    );
  }
}

function unique(values: readonly Datum[], field: string): string[] {
  return [...new Set(values.map((value) => String(value[field])))];
}
