/** One step of a candidate's evaluation, with its cost. */
export interface StageOutcome {
  /** One of the search's stages: `quality`. */
  readonly name: string;
  /** Deterministic cost, in a unit of the evaluation's choice (training steps, say). Default 0. */
  readonly work?: number;
  /** Measured cost. */
  readonly seconds: number;
  /** What was measured: an accuracy, a norm. Default NaN. */
  readonly value?: number;
}

/** What evaluating a candidate found: a score per anchor, or the test that it failed. */
export type Evaluation =
  & {
    /** The stages that were run, in order: at least one, that of a limit included. */
    readonly stages: readonly StageOutcome[];
  }
  & (
    | {
      /** One finite number per anchor, larger is better. */
      readonly scores: readonly number[];
    }
    | {
      /** Name of the test, or of the limit (time, memory) that ended the evaluation. */
      readonly rejectedBy: string;
    }
  );

/** How a candidate came to be: before there was a population, by the random share, by mutation of a winner. */
export type Origin = "initial" | "fresh" | "offspring";

/** All that the history keeps of a candidate. */
export interface CandidateRecord {
  /** Its number in order of submission, from 0. */
  readonly index: number;
  /** Drawn at random, or mutated from a parent. */
  readonly origin: Origin;
  /** The winner that it was mutated from. */
  readonly parent: number | null;
  /** As the space encodes it. */
  readonly genotype: string;
  /** Of what it computes; null where the candidate was screened out first, or the search takes no hashes. */
  readonly hash: string | null;
  /** The earlier candidate with the same hash, whose result it takes. */
  readonly duplicateOf: number | null;
  /** The test that rejected it; null for an accepted one. */
  readonly rejectedBy: string | null;
  /** Of accepted ones. */
  readonly scores: readonly number[] | null;
  /** What was run for this candidate: nothing but screening and hashing for a duplicate. */
  readonly stages: readonly StageOutcome[];
}

/** The stages that the search runs itself, before the evaluation's own. */
export const ownStages = ["screen", "hash"] as const;

/** Whether a candidate was evaluated: neither screened out nor a duplicate. */
export function wasEvaluated({ stages }: Pick<CandidateRecord, "stages">): boolean {
  return stages.some(({ name }) => !(ownStages as readonly string[]).includes(name));
}

/** A column of a table of records. */
export interface RecordColumn {
  /** `score_resnet`. */
  readonly name: string;
  /** Whole numbers, numbers, or texts. */
  readonly kind: "int32" | "float64" | "utf8";
}

/** Columns of records, by name, all of one length. */
export type RecordColumns = Readonly<Record<string, ArrayLike<number> | readonly string[]>>;

/** What names the columns of records. */
export interface RecordNames {
  /** What a candidate is scored on, in order. */
  readonly anchors: readonly string[];
  /** Of the evaluation, in order. */
  readonly stages: readonly string[];
}

const origins: readonly Origin[] = ["initial", "fresh", "offspring"];

/** Ends the names of the columns that hold measured times, which no second run repeats. */
const MEASURED = "_seconds";

/**
 * Columns of a table with one row per candidate: `index, origin, parent, genotype, hash, duplicate_of, rejected_by`,
 * then `score_<anchor>`, then `<stage>_value, <stage>_work, <stage>_seconds`. Nothing is written -1 as a number of a
 * candidate, NaN as a measure, and empty as a text, so that any reader copes.
 */
export function recordColumns({ anchors, stages }: RecordNames): RecordColumn[] {
  const text = (name: string): RecordColumn => ({ name, kind: "utf8" });
  const whole = (name: string): RecordColumn => ({ name, kind: "int32" });
  const real = (name: string): RecordColumn => ({ name, kind: "float64" });
  return [
    whole("index"),
    text("origin"),
    whole("parent"),
    text("genotype"),
    text("hash"),
    whole("duplicate_of"),
    text("rejected_by"),
    ...anchors.map((anchor) => real(`score_${anchor}`)),
    ...[...ownStages, ...stages].flatMap((stage) => [
      real(`${stage}_value`),
      real(`${stage}_work`),
      real(`${stage}${MEASURED}`),
    ]),
  ];
}

/** The columns that are the same in every run of the same search: all but measured times. */
export function repeatableColumns(names: RecordNames): RecordColumn[] {
  return recordColumns(names).filter(({ name }) => !name.endsWith(MEASURED));
}

/** Records as columns. */
export function toColumns(records: readonly CandidateRecord[], names: RecordNames): RecordColumns {
  const columns: Record<string, ArrayLike<number> | readonly string[]> = {
    index: Int32Array.from(records, ({ index }) => index),
    origin: records.map(({ origin }) => origin),
    parent: Int32Array.from(records, ({ parent }) => parent ?? -1),
    genotype: records.map(({ genotype }) => genotype),
    hash: records.map(({ hash }) => hash ?? ""),
    duplicate_of: Int32Array.from(records, ({ duplicateOf }) => duplicateOf ?? -1),
    rejected_by: records.map(({ rejectedBy }) => rejectedBy ?? ""),
  };
  names.anchors.forEach((anchor, k) => {
    columns[`score_${anchor}`] = Float64Array.from(records, ({ scores }) => scores?.[k] ?? NaN);
  });
  for (const stage of [...ownStages, ...names.stages]) {
    const found = records.map(({ stages }) => stages.find(({ name }) => name === stage));
    columns[`${stage}_value`] = Float64Array.from(found, (outcome) => outcome?.value ?? NaN);
    columns[`${stage}_work`] = Float64Array.from(found, (outcome) => outcome ? outcome.work ?? 0 : NaN);
    columns[`${stage}${MEASURED}`] = Float64Array.from(found, (outcome) => outcome?.seconds ?? NaN);
  }
  return columns;
}

/** The records that {@link toColumns} made columns of. Texts and numbers are taken as they are: a journal checks them. */
export function fromColumns(columns: RecordColumns, names: RecordNames): CandidateRecord[] {
  const numbers = (name: string) => columns[name] as ArrayLike<number>;
  const texts = (name: string) => columns[name] as readonly string[];
  const [index, parent, duplicate] = [numbers("index"), numbers("parent"), numbers("duplicate_of")];
  const [origin, genotype, hash, rejectedBy] = [
    texts("origin"),
    texts("genotype"),
    texts("hash"),
    texts("rejected_by"),
  ];
  const scores = names.anchors.map((anchor) => numbers(`score_${anchor}`));
  const stages = [...ownStages, ...names.stages].map((name) => ({
    name,
    value: numbers(`${name}_value`),
    work: numbers(`${name}_work`),
    seconds: numbers(`${name}${MEASURED}`),
  }));
  const known = (number: number) => (number < 0 ? null : number);
  return Array.from(index, (number, row): CandidateRecord => {
    const rejected = rejectedBy[row]! || null;
    return {
      index: number,
      origin: origins.find((name) => name === origin[row]) ?? "fresh",
      parent: known(parent[row]!),
      genotype: genotype[row]!,
      hash: hash[row]! || null,
      duplicateOf: known(duplicate[row]!),
      rejectedBy: rejected,
      scores: rejected === null ? scores.map((column) => column[row]!) : null,
      stages: stages.flatMap(({ name, value, work, seconds }) =>
        Number.isNaN(work[row]!) ? [] : [{
          name,
          work: work[row]!,
          seconds: seconds[row]!,
          ...(Number.isNaN(value[row]!) ? {} : { value: value[row]! }),
        }]
      ),
    };
  });
}

/** Summed cost of a record's stages: measured seconds and deterministic work. */
export function costOf({ stages }: Pick<CandidateRecord, "stages">): { seconds: number; work: number } {
  let seconds = 0;
  let work = 0;
  for (const stage of stages) {
    seconds += stage.seconds;
    work += stage.work ?? 0;
  }
  return { seconds, work };
}
