/**
 * Experiments: trials run once, kept for good, and judged.
 *
 * An {@link Experiment} names its trials (pure: same trial, same backend, same rows), runs one, and turns rows into
 * tables, figures and claims. {@link runExperiment} looks up which trials the store already has and runs the others,
 * in worker processes or in this one; each finished trial becomes one Arrow file, written whole and then renamed,
 * with its provenance in the schema's metadata. So to resume is to run the same command again.
 *
 * {@link TrialsOnDemand} runs trials that are not known beforehand, as a search's evaluations are: store, workers and
 * limits as for a run. An experiment whose trials are made of such trials names them as its `parts`.
 *
 * {@link loadResults} gives the stored rows back as tables; {@link bootstrapInterval} and {@link judge} turn values
 * over seeds into a verdict; {@link verifyResults} runs stored trials again and compares bit for bit.
 *
 * This room knows nothing of tensors: an experiment brings its own backend.
 *
 * @module
 */
export * from "./_types.ts";
export {
  AppendTable,
  readTable,
  type TableColumn,
  type TableColumns,
  type TableLayout,
  writeTable,
} from "./_append_table.ts";
export { BrokenFileError, rowsDigest } from "./_arrow.ts";
export {
  bootstrapInterval,
  type BootstrapSettings,
  type Estimate,
  FEWEST_SEEDS,
  judge,
  type Sample,
  type Statement,
  verdictOf,
} from "./_claims.ts";
export { type FileWriter, StorageError, storageError, writeAtomically } from "./_files.ts";
export {
  canonicalJson,
  resolveOptions,
  sha256,
  trialIdentity,
  type TrialKey,
  trialsOf,
} from "./_identity.ts";
export {
  loadAllResults,
  loadResults,
  Results,
  type ResultsContent,
  type ResultsSelection,
} from "./_results.ts";
export { runExperiment, type RunSettings } from "./_run.ts";
export { TrialsOnDemand, type TrialsOnDemandSettings } from "./_on_demand.ts";
export { TrialFailure, WorkerDeath } from "./_launch.ts";
export { readTrialFile } from "./_store.ts";
export { duration, TerminalProgress, type TextSink } from "./_terminal.ts";
export { type VerifiedTrial, verifyResults, type VerifySettings } from "./_verify.ts";
