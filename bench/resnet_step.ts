/**
 * Images per second of one training step of the CIFAR ResNet, one thread: each backend of this machine beside PyTorch eager, in one run.
 *
 *   deno task bench [--python PYTHON] [--repeats N]
 *
 * PYTHON needs bench/peers/requirements.txt. Rounds alternate between the contenders, so that a noisy machine slows all alike.
 */
import { spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { resnet } from "../lib/models/mod.ts";
import { availableBackends, type BackendName, stream, useBackend } from "../lib/tensor/mod.ts";
import { Sgd, trainStep } from "../lib/train/mod.ts";

interface Config {
  layer: string;
  batch: number;
  size: number;
  width: number;
  blocks: [number, number, number];
  groups: number;
  repeats: number;
}

/** A contender that runs in a process of its own and answers a configuration with step times in milliseconds. */
interface Contender {
  name: string;
  measure(config: Config): Promise<{ milliseconds: number[]; detail: string }>;
  close(): void;
}

/** Step times of the kit on the backend in use, in milliseconds. */
async function stepTimes(config: Config): Promise<number[]> {
  const { layer, batch, size, width, blocks, groups } = config;
  const draws = stream(0);
  const model = resnet(
    { block: "basic", blocks, width, classes: 10, layer, norm: { groups } },
    draws.child("init"),
  );
  const optimizer = new Sgd(model.parameters);
  const images = draws.child("images").normal(batch * size * size * 3);
  const labels = draws.child("labels").integers(batch, 10);
  const times: number[] = [];
  for (let repeat = -2; repeat < config.repeats; repeat++) {
    const start = performance.now();
    await trainStep(
      model,
      optimizer,
      { images, labels, size: batch, height: size, width: size, channels: 3 },
      0.1,
    );
    if (repeat >= 0) times.push(performance.now() - start);
  }
  optimizer.dispose();
  model.dispose();
  return times;
}

/** A process that reads one configuration per line and answers with one line. */
function contender(name: string, command: string, args: string[]): Contender {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    name,
    async measure(config) {
      child.stdin.write(JSON.stringify(config) + "\n");
      const { value, done } = await lines.next();
      if (done) throw new Error(`Cannot measure ${name} as its process must answer: it ended`);
      const { milliseconds, layout, version } = JSON.parse(value);
      return { milliseconds, detail: [version, layout].filter(Boolean).join(" ") };
    },
    close: () => child.stdin.end(),
  };
}

/** Child mode: answers configurations on stdin with the kit's step times on one backend. */
async function serve(backend: BackendName): Promise<void> {
  const { device } = await useBackend(backend);
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify({ version: device, milliseconds: await stepTimes(JSON.parse(line)) }));
  }
}

const { values } = parseArgs({
  options: {
    serve: { type: "string" },
    python: { type: "string", default: "python3" },
    repeats: { type: "string", default: "7" },
    rounds: { type: "string", default: "2" },
    out: { type: "string", default: "results/bench/resnet_step.json" },
  },
});

if (values.serve) {
  await serve(values.serve as BackendName);
} else {
  const self = fileURLToPath(import.meta.url);
  const backends = [...await availableBackends()].filter(([, reason]) => reason === null).map(([name]) =>
    name
  );
  const peer = fileURLToPath(new URL("./peers/resnet_step.py", import.meta.url));
  const contenders = [
    contender("PyTorch eager", values.python, [peer]),
    ...backends.map((name) => contender(name, process.execPath, ["run", "-A", self, "--serve", name])),
  ];
  const shapes = [
    { batch: 64, size: 24, width: 16, blocks: [2, 2, 2] as [number, number, number], groups: 8 },
    { batch: 64, size: 32, width: 64, blocks: [1, 1, 1] as [number, number, number], groups: 8 },
  ];
  const rows: Record<string, string | number>[] = [];
  for (const shape of shapes) {
    for (const layer of ["BN-ReLU", "EvoNorm-S0"]) {
      const times = new Map<string, number[]>();
      const details = new Map<string, string>();
      for (let round = 0; round < Number(values.rounds); round++) {
        for (const { name, measure } of contenders) {
          const { milliseconds, detail } = await measure({
            ...shape,
            layer,
            repeats: Number(values.repeats),
          });
          times.set(name, [...times.get(name) ?? [], ...milliseconds]);
          details.set(name, detail);
        }
      }
      const median = (name: string) =>
        times.get(name)!.toSorted((a, b) => a - b)[times.get(name)!.length >> 1]!;
      for (const { name } of contenders) {
        const row = {
          layer,
          model: `ResNet-${
            6 * shape.blocks[0] + 2
          }, width ${shape.width}, [${shape.batch}, ${shape.size}, ${shape.size}, 3]`,
          contender: name,
          "min ms": Math.min(...times.get(name)!),
          "median ms": median(name),
          "images/s": 1000 * shape.batch / median(name),
          "of PyTorch": median("PyTorch eager") / median(name),
          detail: details.get(name)!,
        };
        rows.push(row);
        console.log(
          `${layer.padEnd(11)} ${row.model.padEnd(36)} ${name.padEnd(14)} min ${
            row["min ms"].toFixed(0).padStart(5)
          } ms, median ` +
            `${row["median ms"].toFixed(0).padStart(5)} ms, ${
              row["images/s"].toFixed(0).padStart(5)
            } images/s, ` +
            `${row["of PyTorch"].toFixed(2)}x PyTorch  (${row.detail})`,
        );
      }
    }
  }
  for (const { close } of contenders) close();
  await mkdir(new URL("../results/bench/", import.meta.url), { recursive: true });
  await writeFile(values.out, JSON.stringify(rows, null, 1) + "\n");
}
