/** Tables, figures and claims of evonorm/random-layers. */
import type { ColumnTable } from "arquero";
import type { Claim, FigureSpec, ResultsView } from "../../lib/experiment/mod.ts";

/** All tables. */
export const randomLayerTables = (_: ResultsView): Record<string, ColumnTable> => ({});

/** All figures. */
export const randomLayerFigures = (_: ResultsView): FigureSpec[] => [];

/** All claims. */
export const randomLayerClaims = (_: ResultsView): Claim[] => [];
