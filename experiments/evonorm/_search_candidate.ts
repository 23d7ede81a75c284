/** A candidate of the search as a trial: two tests that reject it, then training in every anchor. */
import {
  batches,
  type ChannelMoments,
  channelMoments,
  evaluationBatches,
  type ImageSplit,
  loadImages,
  proxyAugmentation,
  split,
} from "../../lib/data/mod.ts";
import { type Evaluation, inStages, type StageVerdict } from "../../lib/evolution/mod.ts";
import {
  type BackendSummary,
  type Experiment,
  type Scale,
  sha256,
  type Trial,
  type TrialContext,
  type TrialOutcome,
} from "../../lib/experiment/mod.ts";
import { fromJSON } from "../../lib/graph/mod.ts";
import { anchor, type AnchorName, anchors, type AnchorScale, type ImageModel } from "../../lib/models/mod.ts";
import { type BackendName, type Stream, stream, useBackend } from "../../lib/tensor/mod.ts";
import {
  classifierStability,
  constant,
  cosine,
  evaluateClassifier,
  Sgd,
  trainStep,
} from "../../lib/train/mod.ts";

/** Everything that decides what a candidate is found to be, next to its graph and seed. A type: it becomes params. */
export type Task = {
  /** Name of the data set. */
  readonly data: string;
  /** Anchors, joined by "+". */
  readonly anchors: string;
  /** Their form. */
  readonly form: AnchorScale;
  /** Channel groups of `whc/g`. */
  readonly groups: number;
  readonly batch: number;
  /** Side of the crops that are trained on. */
  readonly crop: number;
  /** Side of the central crops that accuracy is measured on. */
  readonly testCrop: number;
  /** Images held out of the training images; accuracy is measured on the test images instead where it is 0. */
  readonly validation: number;
  readonly rate: number;
  readonly weightDecay: number;
  readonly schedule: "constant" | "cosine";
  /** Steps until the quality test; no test where it is 0. */
  readonly quality: number;
  /** Accuracy that it asks for, in every anchor. */
  readonly threshold: number;
  /** Steps of gradient ascent of the stability test, in the first anchor; no test where it is 0. */
  readonly stability: number;
  /** Steps of training. */
  readonly steps: number;
  /** `measure`: what the tests say is noted, and every layer is trained to the end, in all anchors. */
  readonly tests: "reject" | "measure";
};

/** What a candidate goes through, in order; `limit` stands for an evaluation that was ended from outside. */
export const STAGES = ["quality", "stability", "training", "limit"] as const;

/** A process that died twice under a candidate: as a rule, the system's memory ran out. */
export const CRASH = "crash";

/** Images of the stability test: "one small batch" (section 4.3). */
export const STABILITY_BATCH = 8;

/**
 * Passes through the network that one image costs: a training step goes forward and, at twice the price, backward; the
 * gradient of a gradient's norm does all that and, at twice the price again, its backward.
 */
export const PASSES = { test: 1, training: 3, stability: 9 };

/** The trial of a candidate, `graph` in JSON or the name of a published layer. The same task, graph and seed are the same trial, in whichever search. */
export function candidateTrial(graph: string, task: Task, seed: number): Trial {
  return { name: `layer-${sha256(graph).slice(0, 16)}-seed${seed}`, params: { graph, ...task }, seed };
}

/** What the trial of a candidate found. */
export function evaluationOf({ rows, notes, seconds, limit }: TrialOutcome, task: Task): Evaluation {
  if (limit !== null) return { rejectedBy: limit, stages: [{ name: "limit", seconds }] };
  const value = (metric: string) => rows.find((row) => row.metric === metric)?.value;
  const stages = STAGES.flatMap((name) => {
    const work = value(`${name} work`);
    if (work === undefined) return [];
    return [{ name, work, value: value(`${name} value`) ?? NaN, seconds: Number(notes[`${name} seconds`]) }];
  });
  const rejected = STAGES.find((name) => value(`rejected by ${name}`) !== undefined);
  if (rejected !== undefined) return { rejectedBy: rejected, stages };
  return { scores: task.anchors.split("+").map((name) => value(`accuracy ${name}`)!), stages };
}

/** Images as a task wants them. */
interface Images extends ChannelMoments {
  readonly train: ImageSplit;
  /** What accuracy is measured on. */
  readonly held: ImageSplit;
  readonly classes: number;
}

/** The images of the last trial: those of a search share them, and preparing them takes as long as some steps. */
let last: { readonly key: string; readonly images: Promise<Images> } | undefined;

function imagesOf(source: string, validation: number, seed: number): Promise<Images> {
  const key = JSON.stringify([source, validation, seed]);
  if (last?.key !== key) {
    last = { key, images: prepareImages(source, validation, stream(seed).child("validation")) };
  }
  return last.images;
}

async function prepareImages(source: string, validation: number, draws: Stream): Promise<Images> {
  const { train: all, test, classes } = await loadImages(source);
  const { train, validation: held } = validation > 0
    ? split(all, { validation, stream: draws })
    : { train: all, validation: test };
  return { train, held, classes: classes.length, ...channelMoments(train) };
}

/** A network in training that can be left off and gone on with. */
class Training {
  readonly model: ImageModel;
  readonly #optimizer: Sgd;
  readonly #batches: ReturnType<typeof batches>;
  readonly #rate: (step: number) => number;
  #steps = 0;
  /** Whether a loss was not finite: the network is then left as it is. */
  diverged = false;

  constructor(model: ImageModel, task: Task, images: Images, draws: Stream) {
    this.model = model;
    this.#optimizer = new Sgd(model.parameters, { weightDecay: task.weightDecay });
    const { mean, std } = images;
    const augment = { ...proxyAugmentation, crop: task.crop };
    const options = { size: task.batch, steps: task.steps, stream: draws, augment, mean, std };
    this.#batches = batches(images.train, options);
    this.#rate = task.schedule === "cosine" ? cosine(task.rate, task.steps) : constant(task.rate);
  }

  /** Trains until so many steps are done; returns how many were. */
  async until(steps: number, onStep: () => void): Promise<number> {
    const before = this.#steps;
    while (this.#steps < steps && !this.diverged) {
      const batch = this.#batches.next();
      if (batch.done) break;
      const loss = await trainStep(this.model, this.#optimizer, batch.value, this.#rate(this.#steps++));
      this.diverged = !Number.isFinite(loss);
      onStep();
    }
    return this.#steps - before;
  }

  dispose(): void {
    this.#optimizer.dispose();
    this.model.dispose();
  }
}

async function run({ params, seed }: Trial, context: TrialContext): Promise<void> {
  const { graph, ...task } = params as unknown as Task & { graph: string };
  const names = task.anchors.split("+") as AnchorName[];
  // All candidates of a seed share held-out images, initial weights and order of images: comparisons are paired.
  const images = await imagesOf(context.options["data"] || task.data, task.validation, seed);
  const { mean, std } = images;
  const root = stream(seed);
  const layer = graph.startsWith("{") ? fromJSON(graph) : graph;
  const build = (name: AnchorName) =>
    anchor(name, task.form, layer, root.child("init").child(name), {
      classes: images.classes,
      inputChannels: images.train.channels,
      norm: { groups: task.groups },
    });
  const trainings = names.map((name) => ({
    name,
    training: new Training(build(name), task, images, root.child("batches")),
  }));
  const work = (name: AnchorName, images: number, side: number) =>
    anchors[name][task.form].multiplications * (side / 32) ** 2 * images / 1e9;

  let done = 0;
  const onStep = () => context.progress(++done / (names.length * task.steps), "training");
  const measuring = task.tests === "measure";
  /** Goes on with a network and measures it; NaN where its training broke. */
  const advanceOne = async (stage: string, { name, training }: (typeof trainings)[number], steps: number) => {
    let cost = PASSES.training * work(name, task.batch * await training.until(steps, onStep), task.crop);
    let accuracy = NaN;
    if (!training.diverged) {
      const held = evaluationBatches(images.held, 100, { mean, std, crop: task.testCrop });
      accuracy = (await evaluateClassifier(training.model, held)).top1;
      cost += PASSES.test * work(name, images.held.count, task.testCrop);
    }
    context.report({ step: 0, metric: `${stage} accuracy ${name}`, value: accuracy });
    context.report({ step: 0, metric: `${stage} work ${name}`, value: cost });
    return { accuracy, cost };
  };
  /** Goes on with every anchor, until one falls short. */
  const advance = async (
    stage: string,
    steps: number,
    least: number,
  ): Promise<StageVerdict & { scores: number[] }> => {
    let sum = 0;
    const scores: number[] = [];
    for (const one of trainings) {
      const { accuracy, cost } = await advanceOne(stage, one, steps);
      sum += cost;
      scores.push(accuracy);
      if (!measuring && !(accuracy >= least)) return { passed: false, work: sum, value: accuracy, scores };
    }
    return { passed: true, work: sum, value: Math.min(...scores), scores };
  };
  const stability = async (): Promise<StageVerdict> => {
    const [first] = names;
    const model = build(first!);
    try {
      const options = { size: STABILITY_BATCH, steps: 1, stream: root.child("stability"), mean, std };
      const [batch] = batches(images.train, { ...options, augment: { crop: task.crop } });
      const { norms, rejected } = await classifierStability(model, batch!, {
        steps: task.stability,
        batchSize: STABILITY_BATCH,
      });
      const cost = PASSES.stability * work(first!, STABILITY_BATCH * norms.length, task.crop);
      return { passed: measuring || !rejected, work: cost, value: norms.at(-1)! };
    } finally {
      model.dispose();
    }
  };

  try {
    const evaluation = await inStages([
      ...(task.quality > 0
        ? [{ name: "quality", run: () => advance("quality", task.quality, task.threshold) }]
        : []),
      ...(task.stability > 0 ? [{ name: "stability", run: stability }] : []),
      { name: "training", run: () => advance("training", task.steps, 0) },
    ])({ index: 0, genotype: graph, hash: null }, context.signal);
    record(evaluation, names, context);
  } finally {
    for (const { training } of trainings) training.dispose();
  }
}

/** Rows for what every run repeats, notes for the seconds. {@link evaluationOf} reads them. */
function record(evaluation: Evaluation, names: readonly string[], context: TrialContext): void {
  evaluation.stages.forEach(({ name, work = 0, value = NaN, seconds }, step) => {
    context.report({ step, metric: `${name} value`, value });
    context.report({ step, metric: `${name} work`, value: work });
    context.note(`${name} seconds`, seconds);
  });
  const step = evaluation.stages.length;
  if ("rejectedBy" in evaluation) {
    context.report({ step, metric: `rejected by ${evaluation.rejectedBy}`, value: 1 });
    return;
  }
  evaluation.scores.forEach((score, k) => {
    context.report({ step, metric: `accuracy ${names[k]}`, value: score });
  });
}

/** Loads the backend that candidates are trained on. */
export async function prepare(backend: string): Promise<BackendSummary> {
  const { name, device, driver, software, tfjs, library, threads } = await useBackend(
    backend as BackendName | "auto",
  );
  const versions = { tfjs, threads: String(threads), ...(library === undefined ? {} : { library }) };
  return { name, device, driver, software, versions };
}

/** Downloads the images if they are not here. */
export async function fetchImages(source: string, onProgress: (note: string) => void): Promise<void> {
  await loadImages(source, {
    onProgress: ({ note, done, total }) =>
      onProgress(total > 0 ? `${note} ${Math.floor(100 * done / total)}%` : note),
  });
}

/**
 * A hundred times what a usual candidate takes, so that a loaded machine does not decide a history, and what two workers
 * leave of 8 GiB.
 */
const LIMITS: Record<Scale, { seconds: number; mib: number }> = {
  smoke: { seconds: 120, mib: 3072 },
  laptop: { seconds: 1200, mib: 3072 },
  paper: { seconds: 8 * 3600, mib: 16_384 },
};

/** The evaluations of `evonorm/search` and of the command `search`: run on demand, so none of them is known beforehand. */
export const candidates: Experiment = {
  id: "evonorm/search/candidates",
  title: "Candidates of the search",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967), section 4",
  module: import.meta.url,
  summary: "What evonorm/search trains: one layer graph in every anchor.",
  cost: { smoke: "up to a second each", laptop: "up to some seconds each", paper: "up to hours each" },
  scales: ["smoke", "laptop", "paper"],
  options: { data: { description: "images, as for evonorm/search", default: "" } },
  limits: (scale) => LIMITS[scale],
  trials: () => [],
  prepare,
  run,
  tables: () => ({}),
  figures: () => [],
  claims: () => [],
};
