/** Tables, figures and claims of evonorm/rejection. */
import type { ColumnTable } from "arquero";
import type { Claim, FigureSpec, ResultsView } from "../../lib/experiment/mod.ts";

/** All tables. */
export const rejectionTables = (_: ResultsView): Record<string, ColumnTable> => ({});

/** All figures. */
export const rejectionFigures = (_: ResultsView): FigureSpec[] => [];

/** All claims. */
export const rejectionClaims = (_: ResultsView): Claim[] => [];
