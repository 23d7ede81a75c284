/**
 * # attention: sparse attention with its statistics
 *
 * {@linkcode attend} is the one operator: softmax attention of queries to the keys that a mask keeps, with the log-sum-exp of each row
 * (the statistic that Re-ttention reshapes, arXiv 2505.22918) and, in the same pass, `rho * O + residual`. It skips what the mask drops
 * and never holds all scores, has gradients on every backend, and runs as the kit's own kernel on `wasm` and `webgpu`.
 *
 * A **mask** is a value that says which keys each query sees, row by row, and labels itself: {@linkcode band}, {@linkcode frameBand} for
 * video with dense text, {@linkcode tileWindow}, {@linkcode blockMask}, {@linkcode elementMask}, or any rows ({@linkcode maskOfRows}).
 * What it costs follows from the tiles that it touches, {@linkcode occupancy}, and these from the order of the tokens: a **layout**
 * ({@linkcode tileLayout}, {@linkcode tokenMajorLayout}) is applied once around a model. {@linkcode drawMask} shows a mask,
 * {@linkcode runCost} counts a whole sampling run.
 *
 * A **selection** makes masks from the data or from the shape of a video, as the rivals do: {@linkcode minferenceBlocks},
 * {@linkcode verticalSlash}, {@linkcode sparseVideoGen}, {@linkcode spargeAttention}, {@linkcode xAttention},
 * {@linkcode radialAttention}, {@linkcode slidingTiles}. A **method** says what each step of a sampling run computes and remembers, with
 * its state as a value: {@linkcode rettention}, {@linkcode ditfastattn}, {@linkcode outputSharing}, {@linkcode selective} for the
 * selections, and {@linkcode fittedGain}, the kit's own.
 *
 * This room imports only `tensor` and `wasm`.
 *
 * @module
 */
export { attend } from "./attend.ts";
export type { Attended, AttendOptions, Implementation, Mask, TileList } from "./types.ts";
export * from "./masks.ts";
export * from "./tiles.ts";
export * from "./layouts.ts";
export * from "./draw.ts";
export * from "./cost.ts";
export * from "./methods/methods.ts";
export * from "./selection/mod.ts";
