/** Methods that choose their keys from the data at each call: the rivals of `selection/`, on a schedule. */
import type * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import { attendSelection, type Selection } from "../selection/mod.ts";
import type { Implementation } from "../types.ts";
import { defineAsyncMethod, type Inputs } from "./_define.ts";
import type { Schedule } from "./schedule.ts";
import type { Method, Place } from "./types.ts";

/** Settings of {@linkcode selective}. */
export interface SelectiveOptions {
  readonly name: string;
  /** All settings of the selection, in words: they tell its states from others'. */
  readonly settings: string;
  readonly schedule: Schedule;
  readonly implementation?: Implementation;
  /** The keys of a sparse step; q, k and v are not its own. */
  select(q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, place: Place): Selection | Promise<Selection>;
}

/**
 * Attention to the keys that `select` chooses on the sparse steps of a schedule, to all keys on the others: MInference, Sparse VideoGen,
 * SpargeAttn, XAttention and others without a cache. So the Re-ttention paper ran them, with its own schedule.
 *
 * ```ts
 * import { minferenceBlocks, publishedSchedule, selective } from "@normlab/normlab/attention";
 * const schedule = publishedSchedule("pixart");
 * selective({ name: "MInference", settings: "16 blocks of 64", schedule, select: (q, k) => minferenceBlocks(q, k, { top: 16 }) });
 * ```
 */
export function selective(
  { name, settings, schedule, implementation = "auto", select }: SelectiveOptions,
): Method {
  const sparse = (step: number) => schedule.kinds[step] === "sparse";
  return defineAsyncMethod<Selection | null>({
    name,
    label: `${name}(${settings}; ${schedule.label})`,
    sizes: { steps: schedule.kinds.length },
    calls: ({ step }) => ({ dense: sparse(step) ? 0 : 1, sparse: sparse(step) ? 1 : 0, share: 1 }),
    prepare(place, inputs) {
      const { q, k, v } = inputs as Inputs;
      return sparse(place.step) ? select(q, k, v, place) : null;
    },
    compute(selection, _place, inputs) {
      const { q, k, v } = inputs as Inputs;
      return (selection
        ? attendSelection(q, k, v, selection, { implementation })
        : attend(q, k, v, { implementation }))
        .output;
    },
  });
}
