import type { LaunchSettings } from "./_launch.ts";
import type { Pool } from "./_pool.ts";
import type { ProgressTracker } from "./_progress.ts";
import type { BackendSummary } from "./_types.ts";

/** What comes before the first trial: the data are fetched here, once, then the first runner loads the backend. */
export async function prepare(
  { experiment, scale, options, backend }: LaunchSettings,
  pool: Pool,
  tracker: ProgressTracker,
): Promise<BackendSummary> {
  await experiment.fetch?.(scale, options, (note) => {
    tracker.emit({ kind: "fetch", experiment: experiment.id, scale, note });
  });
  tracker.emit({ kind: "prepare", experiment: experiment.id, scale, backend });
  return await pool.prepare();
}
