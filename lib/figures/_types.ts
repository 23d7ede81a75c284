/** A figure as data: everything that a page, a notebook or a file needs to show it. */
export interface FigureSpec {
  /** File name without extension: `[A-Za-z0-9._-]`. */
  readonly name: string;
  readonly title: string;
  /** What is seen, for a reader: one to three sentences. */
  readonly caption: string;
  /** What is seen, for someone who cannot see it. */
  readonly alt: string;
  /** Vega-Lite 6, with its data inline. */
  readonly spec: object;
}

/** The words around a figure. */
export type FigureText = Omit<FigureSpec, "spec">;

/** One of a figure's axes, or its colours: a column of the table and how it is called and drawn. */
export interface Channel {
  /** Column of the table. */
  readonly field: string;
  /** Name with unit, as it stands on the axis: `test accuracy (%)`. */
  readonly title: string;
}

/** An axis of numbers. */
export interface Axis extends Channel {
  /** Default `linear`. */
  readonly scale?: "linear" | "log";
  /** Ends of the axis; default: what the data spans. */
  readonly domain?: readonly [number, number];
  /** A d3 number format: `.1f`, `~s`. */
  readonly format?: string;
}

/** A channel of names, which get a colour or a place each. */
export interface Names extends Channel {
  /** In which order; default: as they come in the table. */
  readonly order?: readonly string[];
}
