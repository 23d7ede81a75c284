/**
 * Attention with its statistics.
 *
 * @module
 */
export { attend } from "./attend.ts";
export type { Attended, AttendOptions, Implementation, Mask, TileList } from "./types.ts";
