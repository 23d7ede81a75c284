/** The kit as a contender of bench/training_step.ts: `deno run -A bench/_training_server.ts BACKEND`. Requests as in bench/peers/resnet_step.py. */
import process from "node:process";
import { type ImageModel, resnet } from "../lib/models/mod.ts";
import { type BackendName, stream, useBackend } from "../lib/tensor/mod.ts";
import { type LabelledBatch, Sgd, trainStep } from "../lib/train/mod.ts";
import { serve, type Timing } from "./_contender.ts";
import { resetPeak, residentMib } from "./_resident_memory.ts";

/** A ResNet with one batch, and how long to train it. */
export interface TrainingRequest {
  layer: string;
  batch: number;
  size: number;
  width: number;
  blocks: [number, number, number];
  groups: number;
  seconds: number;
  most: number;
}

/** Step times and memory. */
export interface TrainingAnswer extends Timing {
  /** Of the first step; in the first answer only. */
  firstMilliseconds?: number;
  /** Resident memory after the imports. */
  importedMib: number;
  /** Largest resident memory during the timed steps. */
  peakMib: number;
  /** Number of trained parameters. */
  parameters: number;
}

const { device, driver } = await useBackend(process.argv[2] as BackendName);
const importedMib = residentMib("VmRSS");

class Training {
  readonly parameters: number;
  readonly #model: ImageModel;
  readonly #optimizer: Sgd;
  readonly #batch: LabelledBatch;

  constructor({ layer, batch, size, width, blocks, groups }: TrainingRequest) {
    const draws = stream(0);
    const config = { block: "basic", blocks, width, classes: 10, layer, norm: { groups } } as const;
    this.#model = resnet(config, draws.child("init"));
    this.#optimizer = new Sgd(this.#model.parameters);
    const images = draws.child("images").normal(batch * size * size * 3);
    const labels = draws.child("labels").integers(batch, 10);
    this.#batch = { images, labels, size: batch, height: size, width: size, channels: 3 };
    this.parameters = this.#model.parameters
      .filter(({ kind }) => kind !== "statistic")
      .reduce((sum, { variable }) => sum + variable.size, 0);
  }

  async step(): Promise<number> {
    const start = performance.now();
    await trainStep(this.#model, this.#optimizer, this.#batch, 0.1);
    return performance.now() - start;
  }
}

let training: Training | undefined;

await serve<TrainingRequest>(async (request): Promise<TrainingAnswer> => {
  let firstMilliseconds: number | undefined;
  if (training === undefined) {
    training = new Training(request);
    firstMilliseconds = await training.step();
    await training.step();
    resetPeak();
  }
  const milliseconds: number[] = [];
  const end = performance.now() + 1000 * request.seconds;
  while (milliseconds.length < 2 || (milliseconds.length < request.most && performance.now() < end)) {
    milliseconds.push(await training.step());
  }
  return {
    ...(firstMilliseconds === undefined ? {} : { firstMilliseconds }),
    version: `${device}, ${driver}`,
    milliseconds,
    importedMib,
    peakMib: residentMib("VmHWM"),
    parameters: training.parameters,
  };
});
