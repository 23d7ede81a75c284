/**
 * Attention methods over a sampling run, each a {@linkcode Method}: full attention, a mask alone, output sharing, DiTFastAttn (on a schedule and
 * by its greedy plan), Re-ttention, and the kit's own fitted gain.
 */
export { fittedGain, type FittedGainOptions } from "./fitted_gain.ts";
export { fitGains, gainCalibration } from "./gain_calibration.ts";
export {
  ditfastattn,
  ditfastattnTrial,
  type GuidanceOrder,
  type PlanChoice,
  planChoices,
  type PlanOptions,
  type PlanTable,
} from "./plan.ts";
export {
  planCandidates,
  planLoss,
  type PlanSearchOptions,
  type PlanSearchResult,
  type PlanTrial,
  searchPlan,
} from "./plan_search.ts";
export { officialRettention, residualSharing, rettention, type RettentionOptions } from "./rettention.ts";
export {
  periodicSchedule,
  type PublishedModel,
  publishedSchedule,
  type Schedule,
  schedule,
  scheduleCost,
  type StepKind,
} from "./schedule.ts";
export type { ScheduledMethod, ScheduledOptions } from "./_scheduled.ts";
export { selective, type SelectiveOptions } from "./selective.ts";
export { fullAttention, outputSharing, windowOnly } from "./simple.ts";
export { copyState, disposeState, restoreState, saveState, stateBytes } from "./state.ts";
export type {
  Calls,
  DirectMethod,
  Held,
  Method,
  MethodContext,
  MethodState,
  Place,
  Reads,
  Stepped,
} from "./types.ts";
