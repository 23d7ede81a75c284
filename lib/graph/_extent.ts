import type { IndexSet } from "./types.ts";

/**
 * Where a value varies, as a set of bits. Every node of a graph stands for a tensor of x's shape; most of them are
 * constant along some dimensions, and a value is kept once per place where it may differ.
 */
export type Extent = number;

export const batch = 1, space = 2, group = 4, channel = 8 | group;

export const scalar: Extent = 0;
export const perChannel: Extent = channel;
export const full: Extent = batch | space | channel;

/** The extent of a moment over `axes` of a value of extent `of`. */
export function aggregate(of: Extent, axes: IndexSet): Extent {
  switch (axes) {
    case "bwh":
      return of & ~(batch | space);
    case "wh":
      return of & ~space;
    case "whc":
      return of & ~(space | channel);
    case "whc/g":
      return of & ~(space | (channel & ~group));
  }
}
