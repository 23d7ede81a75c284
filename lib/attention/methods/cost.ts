/** What a method costs in attention. */
import type { Method, MethodContext } from "./types.ts";

/**
 * The attention of a run as a share of that of full attention, with a mask that keeps `keptShare` of all elements, or of all tiles for a
 * kernel that skips tiles: the mean over layers and steps of `(dense + sparse keptShare) share` of {@linkcode Method.calls}.
 */
export function methodCost(method: Method, { layers = 1, steps }: MethodContext, keptShare: number): number {
  let sum = 0;
  for (let layer = 0; layer < layers; layer++) {
    for (let step = 0; step < steps; step++) {
      const { dense, sparse, share } = method.calls({ layer, step });
      sum += (dense + sparse * keptShare) * share;
    }
  }
  return sum / (layers * steps);
}
