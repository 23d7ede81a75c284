/** When a method attends to all keys, when it takes its statistics, when it is sparse. */

/** `warm`: all keys. `refresh`: all keys, and what the following sparse steps need is taken. `sparse`: the keys of the mask. */
export type StepKind = "warm" | "refresh" | "sparse";

/** What each step of a run is. */
export interface Schedule {
  readonly label: string;
  /** [steps] */
  readonly kinds: readonly StepKind[];
}

/** The models whose schedules the Re-ttention paper gives. */
export type PublishedModel = "pixart" | "hunyuan" | "cogvideox";

/** arXiv 2505.22918; refreshes are 5 steps apart. */
const published: Readonly<Record<PublishedModel, { steps: number; warm: number }>> = {
  pixart: { steps: 20, warm: 5 },
  hunyuan: { steps: 50, warm: 10 },
  cogvideox: { steps: 50, warm: 15 },
};

/** The refresh steps in the official code for PixArt, whatever the number of steps. */
const literalRefreshes = [5, 10, 15];

/**
 * Any schedule.
 * @throws {RangeError} on an unknown kind of step, or none
 */
export function schedule(label: string, kinds: readonly StepKind[]): Schedule {
  const wrong = kinds.findIndex((kind) => !["warm", "refresh", "sparse"].includes(kind));
  if (wrong >= 0 || kinds.length === 0) {
    throw new RangeError(
      `Cannot make schedule '${label}' as its steps must be warm, refresh or sparse: ` +
        (wrong < 0 ? "current schedule has none" : `current step ${wrong} is ${kinds[wrong]}`),
    );
  }
  return { label, kinds: [...kinds] };
}

/**
 * The first `warm` steps see all keys, then each `interval`th step refreshes, beginning with the next one.
 * @throws {RangeError} on numbers that are not whole, or an interval or number of steps below 1
 */
export function periodicSchedule(
  { steps, warm, interval = 5 }: { steps: number; warm: number; interval?: number },
): Schedule {
  for (
    const [name, value, least] of [["steps", steps, 1], ["warm", warm, 0], ["interval", interval, 1]] as const
  ) {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new RangeError(
        `Cannot make a schedule as '${name}' must be a whole number of at least ${least}: current ${name} is ${value}`,
      );
    }
  }
  return schedule(
    `${steps} steps, ${warm} warm, refresh every ${interval}`,
    Array.from({ length: steps }, (_, step) => {
      if (step < warm) return "warm";
      return (step - warm) % interval === 0 ? "refresh" : "sparse";
    }),
  );
}

/**
 * The schedule of the paper for a model, or of its official code (`literal`): the two differ for PixArt in more than 20 steps, where the
 * code has no refresh after step 15.
 * @throws {RangeError} on an unknown model or a number of steps that is not whole
 */
export function publishedSchedule(
  model: PublishedModel,
  { steps = published[model]?.steps, literal = false }: { steps?: number; literal?: boolean } = {},
): Schedule {
  if (!(model in published)) {
    throw new RangeError(
      `Cannot make a schedule as 'model' must be one of ${
        Object.keys(published).join(", ")
      }: current model is ${model}`,
    );
  }
  const periodic = periodicSchedule({ steps, warm: published[model].warm });
  const kinds = literal && model === "pixart"
    ? periodic.kinds.map((kind, step) => {
      if (kind === "warm") return kind;
      return literalRefreshes.includes(step) ? "refresh" : "sparse";
    })
    : periodic.kinds;
  return schedule(`${model} ${steps}${literal ? " literal" : ""}`, kinds);
}

/** The latest refresh before `step`; -1 if there is none. */
export function lastRefresh({ kinds }: Schedule, step: number): number {
  return kinds.lastIndexOf("refresh", step - 1 < 0 ? -Infinity : step - 1);
}

/**
 * For methods that go on from a refresh.
 * @throws {RangeError} on a sparse step before the first refresh
 */
export function requireRefreshFirst(name: string, { label, kinds }: Schedule): void {
  const sparse = kinds.indexOf("sparse");
  const refresh = kinds.indexOf("refresh");
  if (sparse >= 0 && (refresh < 0 || sparse < refresh)) {
    throw new RangeError(
      `Cannot make ${name} as a refresh must come before the first sparse step: current schedule is ${label}, sparse at step ${sparse}`,
    );
  }
}

/**
 * The attention of a run as a share of that of full attention, `(sum dense + sum sparse keptShare) / steps`: the floor that a schedule
 * sets, with the mask's kept share of elements, or of tiles for a kernel that skips tiles.
 */
export function scheduleCost({ kinds }: Schedule, keptShare: number): number {
  const dense = kinds.filter((kind) => kind !== "sparse").length;
  const window = kinds.filter((kind) => kind !== "warm").length;
  return (dense + window * keptShare) / kinds.length;
}
