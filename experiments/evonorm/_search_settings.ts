/** The tasks and the moves of evonorm/search, evonorm/rejection and evonorm/random-layers at each scale. */
import type { Scale } from "../../lib/experiment/mod.ts";
import type { Task } from "./_search_candidate.ts";
import type { SearchSetting } from "./_search_run.ts";

/** How the best layers of a search are tried after it, without tests. A type: it becomes params. */
export type AfterSearch = {
  /** So many of the best are ranked again, on held-out images, by other seeds than the search's. */
  readonly rerankLayers: number;
  readonly rerankSteps: number;
  readonly rerankSeeds: number;
  /** Anchors in which the best of those is measured on the test images, joined by "+": those not searched on included. */
  readonly confirmAnchors: string;
  readonly confirmSteps: number;
  readonly confirmSeeds: number;
};

/** One kind of search, run with several seeds. */
export interface SearchKind extends Pick<SearchSetting, "method" | "constraint" | "criterion"> {
  /** Default: those of the task. */
  readonly anchors?: string;
  /** False: neither quality nor stability test. Default true. */
  readonly rejection?: boolean;
  readonly seeds: number;
}

/** Random layers that are all trained to the end, whatever the tests say. */
export interface RandomLayers {
  readonly anchors: string;
  readonly seeds: number;
  /** For each seed: layers whose output depends on their input, each function once. */
  readonly layers: number;
}

/** One scale of the experiments. */
export interface ScaleSetting {
  readonly task: Task;
  /** What is different in searches without batch statistics. */
  readonly taskWithoutBatch?: Partial<Task>;
  readonly moves: Pick<SearchSetting, "window" | "initialMembers" | "tournamentShare" | "lookAhead">;
  /** Of one search, in billions of multiplications: equal cost, whatever a candidate takes. */
  readonly work: number;
  /** The same in evonorm/rejection: no more than `work`, so that its searches with tests are those of evonorm/search. */
  readonly rejectionWork: number;
  readonly searches: readonly SearchKind[];
  readonly rejectionSearches: readonly SearchKind[];
  readonly after: AfterSearch;
  readonly randomLayers: RandomLayers;
}

const kind = (method: SearchSetting["method"], seeds: number): SearchKind => ({
  method,
  constraint: "none",
  criterion: "pareto",
  seeds,
});

/** `seeds` of the searches that the main claim compares, `others` of the rest. */
const searches = (seeds: number, others: number): ScaleSetting["searches"] => [
  kind("evolution", seeds),
  kind("random", seeds),
  { ...kind("evolution", others), constraint: "no-batch" },
  { ...kind("evolution", others), criterion: "average" },
  { ...kind("evolution", others), anchors: "resnet" },
];

const rejectionSearches = (seeds: number): ScaleSetting["rejectionSearches"] =>
  [true, false].flatMap((rejection) => [
    { ...kind("evolution", seeds), rejection },
    { ...kind("random", seeds), rejection },
  ]);

/** The task of a search. */
export function taskOf(
  scale: Scale,
  { constraint = "none", anchors, rejection = true }: Partial<SearchKind> = {},
  data = "",
): Task {
  const { task, taskWithoutBatch } = SETTINGS[scale];
  return {
    ...task,
    ...(constraint === "no-batch" ? taskWithoutBatch : {}),
    ...(anchors === undefined ? {} : { anchors }),
    ...(rejection ? {} : { quality: 0, stability: 0 }),
    data: data || task.data,
  };
}

/** The task of a random layer that is trained to the end. */
export function randomLayerTask(scale: Scale, data: string): Task {
  return { ...taskOf(scale, { anchors: SETTINGS[scale].randomLayers.anchors }, data), tests: "measure" };
}

const ALL_ANCHORS = "resnet+mobilenet+efficientnet";

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
      tests: "reject",
    },
    moves: { window: 20, initialMembers: 2, tournamentShare: 0.3, lookAhead: 2 },
    work: 8,
    rejectionWork: 4,
    searches: searches(3, 1),
    rejectionSearches: rejectionSearches(1),
    after: {
      rerankLayers: 2,
      rerankSteps: 16,
      rerankSeeds: 1,
      confirmAnchors: "resnet+mobilenet",
      confirmSteps: 16,
      confirmSeeds: 1,
    },
    randomLayers: { anchors: "resnet+mobilenet", seeds: 3, layers: 4 },
  },
  laptop: {
    task: {
      data: "cifar10-mini",
      anchors: "resnet+mobilenet",
      form: "smoke",
      groups: 4,
      batch: 32,
      crop: 16,
      testCrop: 16,
      validation: 500,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "cosine",
      quality: 40,
      // Chance and one and a half standard errors: a sixth of the steps is early, and GN-ReLU is at 0.12 then.
      threshold: 0.12,
      stability: 10,
      steps: 240,
      tests: "reject",
    },
    // Of sixteen candidates under way about three are trained: duplicates and inactive ones count, too.
    moves: { window: 50, initialMembers: 5, tournamentShare: 0.2, lookAhead: 16 },
    work: 2000,
    rejectionWork: 1000,
    searches: searches(3, 3),
    rejectionSearches: rejectionSearches(3),
    after: {
      rerankLayers: 3,
      rerankSteps: 480,
      rerankSeeds: 1,
      confirmAnchors: ALL_ANCHORS,
      confirmSteps: 480,
      confirmSeeds: 2,
    },
    randomLayers: { anchors: ALL_ANCHORS, seeds: 3, layers: 50 },
  },
  // What the paper says, and the defaults of the search for what it does not.
  paper: {
    task: {
      data: "cifar10",
      anchors: ALL_ANCHORS,
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
      tests: "reject",
    },
    moves: { window: 2500, initialMembers: 20, tournamentShare: 0.05, lookAhead: 256 },
    // The authors trained longer, with a decaying rate, for the S series.
    taskWithoutBatch: { schedule: "cosine", steps: 5000 },
    // Some 5,000 candidates that pass all tests, 2,000 of the S series: one to two windows.
    work: 3e8,
    rejectionWork: 3e8,
    searches: searches(3, 3),
    rejectionSearches: rejectionSearches(3),
    after: {
      rerankLayers: 10,
      rerankSteps: 20_000,
      rerankSeeds: 3,
      confirmAnchors: ALL_ANCHORS,
      confirmSteps: 78_000,
      confirmSeeds: 3,
    },
    randomLayers: { anchors: ALL_ANCHORS, seeds: 5, layers: 1000 },
  },
};
