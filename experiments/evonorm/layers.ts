/**
 * evonorm/layers: published normalization-activation layers on the CIFAR ResNet.
 *
 * Cost: smoke about a minute on 2 cores (wasm), laptop a quarter of an hour on 2 cores (wasm), paper 12 trainings of
 * ResNet-56 for 200 epochs on a GPU. Expect at laptop scale, top-1: BN-ReLU 65%, EvoNorm-B0 62%, EvoNorm-S0 61%, GN-ReLU 55%.
 */
import { type ColumnTable, from } from "arquero";
import { basename } from "node:path";
import {
  batches,
  channelMoments,
  evaluationBatches,
  loadImages,
  proxyAugmentation,
} from "../../lib/data/mod.ts";
import {
  type BackendSummary,
  bootstrapInterval,
  type Claim,
  type Experiment,
  type FigureSpec,
  judge,
  type ResultsView,
  type Scale,
  sha256,
  type Trial,
  type TrialContext,
} from "../../lib/experiment/mod.ts";
import { dotsWithInterval, lineWithBand } from "../../lib/figures/mod.ts";
import { parameterCount, resnet } from "../../lib/models/mod.ts";
import { type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";
import { constant, cosine, evaluateClassifier, trainClassifier } from "../../lib/train/mod.ts";

/** The layers compared: the two that everyone uses, and the best of each series of the paper. */
const LAYERS = ["BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"] as const;

/** Everything that decides a trial's rows, next to its seed. */
interface Setting {
  /** Blocks per stage; the depth is 6 * blocks + 2. */
  blocks: number;
  width: number;
  /** Channel groups of GN and S0: the official code's 32 would leave one channel per group at these widths. */
  groups: number;
  batch: number;
  steps: number;
  rate: number;
  weightDecay: number;
  schedule: "cosine" | "constant";
  /** Steps between tests. */
  every: number;
  /** Side of the random crop that training sees; testing sees whole images. */
  crop: number;
}

const SETTINGS: Record<Scale, { setting: Setting; seeds: number; data: string }> = {
  smoke: {
    data: "cifar10-mini",
    seeds: 3,
    setting: {
      blocks: 1,
      width: 8,
      groups: 4,
      batch: 32,
      steps: 60,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "cosine",
      every: 20,
      crop: 24,
    },
  },
  laptop: {
    data: "cifar10",
    seeds: 3,
    setting: {
      blocks: 2,
      width: 16,
      groups: 8,
      batch: 64,
      steps: 1500,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "cosine",
      every: 300,
      crop: 24,
    },
  },
  paper: {
    data: "cifar10",
    seeds: 3,
    setting: {
      blocks: 9,
      width: 16,
      groups: 8,
      batch: 128,
      steps: 78_000,
      rate: 0.1,
      weightDecay: 1e-4,
      schedule: "cosine",
      every: 1950,
      crop: 24,
    },
  },
};

function trials(scale: Scale, options: Readonly<Record<string, string>>): Trial[] {
  const { setting, seeds } = SETTINGS[scale];
  // The name of the data decides the rows, not the folder it lies in.
  const source = basename(sourceOf(scale, options));
  const list: Trial[] = [];
  for (let seed = 0; seed < seeds; seed++) {
    for (const layer of LAYERS) {
      list.push({ name: `${layer}-seed${seed}`, seed, params: { layer, data: source, ...setting } });
    }
  }
  return list;
}

/** Where the images of a scale come from. */
const sourceOf = (scale: Scale, options: Readonly<Record<string, string>>): string =>
  options.data || SETTINGS[scale].data;

/** Downloads the images if they are not here; a folder that does not hold images is refused before any training. */
async function fetch(
  scale: Scale,
  options: Readonly<Record<string, string>>,
  onProgress: (note: string) => void,
): Promise<void> {
  await loadImages(sourceOf(scale, options), {
    onProgress: ({ note, done, total }) =>
      onProgress(total > 0 ? `${note} ${Math.floor(100 * done / total)}%` : note),
  });
}

async function run({ params, seed }: Trial, context: TrialContext): Promise<void> {
  const { layer, ...setting } = params as unknown as Setting & { layer: string };
  const { train, test, classes } = await loadImages(sourceOf(context.scale, context.options));
  // Layers share initial weights, order and augmentation of a seed, so that differences between layers are paired.
  const root = stream(seed);
  const model = resnet({
    block: "basic",
    blocks: [setting.blocks, setting.blocks, setting.blocks],
    width: setting.width,
    classes: classes.length,
    inputChannels: train.channels,
    layer,
    norm: { groups: setting.groups },
  }, root.child("init"));
  context.note("parameters", parameterCount(model));
  context.note("training images", train.count);
  context.note("sha256 of the training images", sha256(train.images));
  const moments = channelMoments(train);
  const stepTimes: number[] = [];
  let last = performance.now();
  let lossSum = 0;

  const assess = async (step: number) => {
    const { top1, loss } = await evaluateClassifier(model, evaluationBatches(test, setting.batch, moments));
    context.report({ step, metric: "test top-1", value: top1 });
    context.report({ step, metric: "test loss", value: loss });
  };
  const { divergedAt } = await trainClassifier(
    model,
    batches(train, {
      size: setting.batch,
      steps: setting.steps,
      stream: root.child("batches"),
      augment: { ...proxyAugmentation, crop: setting.crop },
      ...moments,
    }),
    {
      schedule: setting.schedule === "cosine" ? cosine(setting.rate, setting.steps) : constant(setting.rate),
      weightDecay: setting.weightDecay,
      signal: context.signal,
      async onStep(index, loss) {
        const step = index + 1;
        stepTimes.push(performance.now() - last);
        lossSum += loss;
        if (step % setting.every === 0) {
          context.report({ step, metric: "train loss", value: lossSum / setting.every });
          lossSum = 0;
          await assess(step);
        }
        context.progress(step / setting.steps, `loss ${loss.toFixed(3)}`);
        last = performance.now();
      },
    },
  );
  if (divergedAt !== null) {
    context.report({ step: divergedAt, metric: "diverged", value: 1 });
    // What a classifier that learnt nothing scores: the honest final value of a training that broke.
    context.report({ step: setting.steps, metric: "test top-1", value: 1 / classes.length });
  }
  stepTimes.sort((a, b) => a - b);
  const median = stepTimes[stepTimes.length >> 1]!;
  context.note("train images per second (median step)", Math.round(1000 * setting.batch / median));
  model.dispose();
}

/** Final top-1 accuracy of a layer in percent, by seed; empty where none was measured. */
function accuracies(results: ResultsView, layer: string): Map<number, number> {
  const shares = results.bySeed("test top-1", { layer });
  return new Map([...shares].map(([seed, share]) => [seed, 100 * share]));
}

/** Final top-1 accuracy of each layer: mean over seeds with its 95% interval, in percent. */
function accuracyTable(results: ResultsView): ColumnTable {
  return from(LAYERS.flatMap((layer) => {
    const values = accuracies(results, layer);
    if (values.size === 0) return [];
    const { estimate, interval: [low, high], seeds } = bootstrapInterval(values);
    const round = (value: number) => Math.round(100 * value) / 100;
    return [{
      "layer": layer,
      "top-1 mean (%)": round(estimate),
      "95% from": round(low),
      "to": round(high),
      "worst seed": round(Math.min(...values.values())),
      "best seed": round(Math.max(...values.values())),
      "seeds": seeds,
    }];
  }));
}

/** Every seed's final accuracy, one row each. */
function seedTable(results: ResultsView): ColumnTable {
  return from(
    LAYERS.flatMap((layer) =>
      [...accuracies(results, layer)].map(([seed, value]) => ({ layer, seed, "top-1 (%)": value }))
    ),
  );
}

function figures(results: ResultsView): FigureSpec[] {
  const summary = accuracyTable(results);
  if (summary.numRows() === 0) return [];
  const layer = { field: "layer", title: "layer", order: [...LAYERS] };
  const spoken = (summary.objects() as Record<string, number | string>[])
    .map((row) => `${row["layer"]} ${row["top-1 mean (%)"]}%`).join(", ");
  const curves = results.rows.objects() as {
    layer: string;
    seed: number;
    step: number;
    metric: string;
    value: number;
  }[];
  const series = (metric: string, factor: number) =>
    from(curves.filter((row) => row.metric === metric).map((row) => ({ ...row, value: factor * row.value })));
  return [
    dotsWithInterval({
      name: "accuracy",
      title: "Final test accuracy by layer",
      caption: "Mean over seeds (dot) with its 95% interval (bar); each tick is one seed.",
      alt: `Mean final top-1 accuracy: ${spoken}.`,
    }, {
      table: summary,
      y: layer,
      x: { field: "top-1 mean (%)", title: "test top-1 accuracy (%)" },
      lo: "95% from",
      hi: "to",
      points: seedTable(results).rename({ "top-1 (%)": "top-1 mean (%)" }),
    }),
    lineWithBand({
      name: "accuracy-over-steps",
      title: "Test accuracy during training",
      caption: "Mean over seeds; the band spans the seeds.",
      alt: `Test accuracy over training steps, one line per layer; at the end: ${spoken}.`,
    }, {
      table: series("test top-1", 100),
      x: { field: "step", title: "training step" },
      y: { field: "value", title: "test top-1 accuracy (%)" },
      series: layer,
    }),
    lineWithBand({
      name: "loss-over-steps",
      title: "Training loss",
      caption: "Mean cross-entropy of the batches since the last test; the band spans the seeds.",
      alt: "Training loss over steps, one line per layer.",
    }, {
      table: series("train loss", 1),
      x: { field: "step", title: "training step" },
      y: { field: "value", title: "training loss (cross-entropy, nats)" },
      series: layer,
    }),
  ];
}

function claims(results: ResultsView): Claim[] {
  const compare = (
    id: string,
    better: string,
    worse: string,
    statement: string,
    printed?: { value: string; source: string },
  ): Claim => {
    const [a, b] = [accuracies(results, better), accuracies(results, worse)];
    return judge({
      id,
      statement,
      ...(printed ? { printed } : {}),
      measure: `final test top-1 of ${better} minus ${worse} (percentage points, paired by seed)`,
      direction: "above",
      threshold: 0,
    }, a.size > 0 && b.size > 0 ? bootstrapInterval(a, b) : undefined);
  };
  const figure1 =
    "ImageNet, ResNet-50, batch 1024: read off Figure 1 of an early version of the paper (+-0.1)";
  return [
    compare(
      "b0-beats-bn-relu",
      "EvoNorm-B0",
      "BN-ReLU",
      "EvoNorm-B0 reaches a higher accuracy than BN-ReLU on a ResNet at a usual batch size.",
    ),
    compare(
      "s0-beats-gn-relu",
      "EvoNorm-S0",
      "GN-ReLU",
      "EvoNorm-S0 reaches a higher accuracy than GN-ReLU, the usual layer without batch statistics, on a ResNet.",
      { value: "+2.0", source: figure1 },
    ),
    compare(
      "s0-beats-bn-relu",
      "EvoNorm-S0",
      "BN-ReLU",
      "EvoNorm-S0 reaches a higher accuracy than BN-ReLU on a ResNet at a usual batch size.",
      { value: "+1.3", source: figure1 },
    ),
  ];
}

async function prepare(backend: string): Promise<BackendSummary> {
  const { name, device, driver, software, tfjs, library, threads } = await useBackend(
    backend as BackendName | "auto",
  );
  const versions = { tfjs, threads: String(threads), ...(library === undefined ? {} : { library }) };
  return { name, device, driver, software, versions };
}

/** Accuracy of BN-ReLU, GN-ReLU, EvoNorm-B0 and EvoNorm-S0 on the CIFAR pre-activation ResNet. */
export const layers: Experiment = {
  id: "evonorm/layers",
  title: "Published layers on the CIFAR ResNet",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967): the comparison on ResNet",
  module: import.meta.url,
  summary:
    `Four normalization-activation layers, each evaluated as a layer graph, in the pre-activation ResNet for small images
(3x3 stem, three stages of basic blocks, strides 1, 2, 2), trained on CIFAR-10 by SGD with Nesterov momentum 0.9, weight decay 1e-4
on convolutions only, a cosine schedule from 0.1, random 24x24 crops and mirroring; tested on whole images. The seeds of a layer
share their initial weights and the order of images with the same seeds of the other layers, so differences are paired.

Deviations from the paper. Its main comparison is on ImageNet with ResNet-50, MobileNetV2 and EfficientNets; here it is the ResNet on
CIFAR-10, at laptop scale narrow (width 16) and short. Groups: 8 (4 at smoke scale) instead of the 32 of the official code, which at
these widths would leave one channel per group. The learning rate is the same for all layers and was not tuned for any. A training
that diverges counts as chance accuracy.

What a small proxy can say: whether the layers train, and differences of several points. It cannot confirm or refute differences of a
point on ImageNet.`.replaceAll(/([^\n])\n([^\n])/g, "$1 $2"),
  cost: {
    smoke: "2 cores: about a minute (wasm)",
    laptop: "2 cores: a quarter of an hour (wasm)",
    paper: "ResNet-56, 200 epochs, 12 trainings: a GPU for a day or more (not measured)",
  },
  scales: ["smoke", "laptop", "paper"],
  options: {
    data: {
      description:
        "images: cifar10-mini (shipped), cifar10 (downloaded), fashion-mnist, or a folder; default: the scale's own",
      default: "",
    },
  },
  trials,
  fetch,
  prepare,
  run,
  tables: (results) => ({ accuracy: accuracyTable(results), seeds: seedTable(results) }),
  figures,
  claims,
};
