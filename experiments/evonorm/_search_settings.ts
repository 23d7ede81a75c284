/** The task and the moves of evonorm/search at each scale. */
import type { Scale } from "../../lib/experiment/mod.ts";
import type { Task } from "./_search_candidate.ts";
import type { SearchSetting } from "./_search_run.ts";

/** How layers are tried after a search: on the test images, without tests, with other seeds than the search's. */
export type Confirmation = {
  /** Anchors, those not searched on included, joined by "+". */
  readonly confirmAnchors: string;
  readonly confirmSteps: number;
  readonly confirmSeeds: number;
};

/** One scale of the experiment. */
export interface ScaleSetting {
  readonly task: Task;
  /** What is different in searches without batch statistics. */
  readonly taskWithoutBatch?: Partial<Task>;
  readonly moves: Pick<SearchSetting, "window" | "initialMembers" | "tournamentShare" | "lookAhead">;
  /** Of one search, in billions of multiplications: equal cost, whatever a candidate takes. */
  readonly work: number;
  readonly searches: readonly (Pick<SearchSetting, "method" | "constraint" | "criterion"> & {
    readonly seeds: number;
  })[];
  readonly confirmation: Confirmation;
}

const searches = (seeds: number, seedsWithoutBatch = seeds): ScaleSetting["searches"] => [
  { method: "evolution", constraint: "none", criterion: "pareto", seeds },
  { method: "random", constraint: "none", criterion: "pareto", seeds },
  { method: "evolution", constraint: "no-batch", criterion: "pareto", seeds: seedsWithoutBatch },
];

/** The task of a search. */
export function taskOf(scale: Scale, constraint: SearchSetting["constraint"], data: string): Task {
  const { task, taskWithoutBatch } = SETTINGS[scale];
  return { ...task, ...(constraint === "no-batch" ? taskWithoutBatch : {}), data: data || task.data };
}

/** The setting of each scale. */
export const SETTINGS: Readonly<Record<Scale, ScaleSetting>> = {
  // Too little training to tell layers apart: it shows that every part works. Thresholds let some pass by chance.
  smoke: {
    task: {
      data: "cifar10-mini",
      anchors: "resnet+mobilenet",
      form: "smoke",
      groups: 4,
      batch: 16,
      crop: 16,
      testCrop: 16,
      validation: 100,
      rate: 0.05,
      weightDecay: 1e-4,
      schedule: "cosine",
      quality: 8,
      threshold: 0.1,
      stability: 2,
      steps: 16,
    },
    moves: { window: 20, initialMembers: 2, tournamentShare: 0.3, lookAhead: 2 },
    work: 8,
    searches: searches(3, 1),
    confirmation: { confirmAnchors: "resnet+mobilenet", confirmSteps: 16, confirmSeeds: 1 },
  },
  laptop: {
    task: {
      data: "cifar10-mini",
      anchors: "resnet+mobilenet",
      form: "smoke",
      groups: 4,
      batch: 32,
      crop: 16,
      testCrop: 32,
      validation: 500,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "cosine",
      quality: 80,
      threshold: 0.15,
      stability: 20,
      steps: 240,
    },
    moves: { window: 100, initialMembers: 20, tournamentShare: 0.1, lookAhead: 4 },
    work: 8000,
    searches: searches(3),
    confirmation: { confirmAnchors: "resnet+mobilenet+efficientnet", confirmSteps: 720, confirmSeeds: 2 },
  },
  // What the paper says, and the defaults of the search for what it does not.
  paper: {
    task: {
      data: "cifar10",
      anchors: "resnet+mobilenet+efficientnet",
      form: "paper",
      groups: 8,
      batch: 128,
      crop: 24,
      testCrop: 32,
      validation: 5000,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "constant",
      quality: 100,
      threshold: 0.2,
      stability: 100,
      steps: 2000,
    },
    moves: { window: 2500, initialMembers: 20, tournamentShare: 0.05, lookAhead: 256 },
    // The authors trained longer, with a decaying rate, for the S series.
    taskWithoutBatch: { schedule: "cosine", steps: 5000 },
    // Some 5,000 candidates that pass all tests, 2,000 of the S series: one to two windows.
    work: 3e8,
    searches: [
      ...searches(3),
      { method: "evolution", constraint: "none", criterion: "average", seeds: 3 },
      { method: "evolution", constraint: "none", criterion: "resnet", seeds: 3 },
    ],
    confirmation: {
      confirmAnchors: "resnet+mobilenet+efficientnet",
      confirmSteps: 78_000,
      confirmSeeds: 3,
    },
  },
};
