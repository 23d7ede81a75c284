/** The one attention operator of the kit. */
import type * as tf from "@tensorflow/tfjs";
import { checkAttend } from "./_check.ts";
import { attendReference } from "./reference.ts";
import type { Attended, AttendOptions } from "./types.ts";

/** Attention of queries to the keys that a mask keeps. */
export function attend(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  options: AttendOptions = {},
): Attended {
  checkAttend(q, k, v, options);
  return attendReference(q, k, v, options);
}
