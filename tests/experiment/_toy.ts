/** A cheap experiment: a logistic map per trial. Params make it slow, throw, or end its process. */
import { existsSync } from "node:fs";
import process from "node:process";
import { bootstrapInterval, type Experiment, judge, type Trial } from "../../lib/experiment/mod.ts";

const growths = [3.57, 3.7, 3.9];

function toyTrial(growth: number, seed: number, extra: Trial["params"] = {}): Trial {
  return { name: `growth${growth}-seed${seed}`, params: { growth, ...extra }, seed };
}

const steps: Record<string, number> = { smoke: 20, laptop: 200 };

/** 9 trials per scale; every step takes `delay` ms. */
export const toy: Experiment = {
  id: "toy/logistic",
  title: "Chaos in the logistic map <toy>",
  summary: "Iterates x -> r x (1 - x).\n\nA toy & nothing more.",
  source: "May 1976",
  module: import.meta.url,
  cost: { smoke: "1 s", laptop: "10 s", paper: "never" },
  scales: ["smoke", "laptop"],
  options: {
    delay: { description: "milliseconds per step", default: "0" },
    fault: { description: "what goes wrong with seed 2", default: "none" },
    mark: { description: "file that, once there, prevents the fault `die once`", default: "" },
  },
  trials: (_scale, { fault = "none" }) =>
    growths.flatMap((growth) =>
      [1, 2, 3].map((seed) => toyTrial(growth, seed, fault !== "none" && seed === 2 ? { fault } : {}))
    ),
  prepare(backend) {
    if (!["auto", "toy"].includes(backend)) {
      throw new RangeError(
        `Cannot use backend '${backend}' as it must be toy: current backend is ${backend}`,
      );
    }
    const summary = {
      name: "toy",
      device: "paper",
      driver: "pencil",
      software: true,
      versions: { toy: "1" },
    };
    return Promise.resolve(summary);
  },
  async run({ params, seed }, { scale, options, report, progress, note }) {
    let x = seed / 10;
    const count = steps[scale] ?? 1;
    for (let step = 0; step < count; step++) {
      x = Number(params["growth"]) * x * (1 - x);
      report({ step, metric: "x", value: x });
      if (step % 10 === 9) report({ step, metric: "oddities", value: [NaN, -0, Infinity][step % 3]! });
      progress((step + 1) / count, `x ${x.toFixed(3)}`);
      if (step === 3) misbehave(params["fault"], options["mark"] ?? "");
      const delay = Number(options["delay"]);
      if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
    }
    note("steps", count);
  },
  tables: (results) => ({ final: results.final("x").select("trial", "seed", "growth", "value") }),
  figures: (results) => [{
    name: "final",
    title: "Final value <by> growth",
    caption: "Each dot is a seed & its last value.",
    alt: 'Dots of final x against growth, "quoted"',
    spec: {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      data: { values: results.final("x").objects() },
      mark: "point",
      encoding: {
        x: { field: "growth", type: "quantitative" },
        y: { field: "value", type: "quantitative" },
      },
    },
  }],
  claims(results) {
    const high = results.bySeed("x", { growth: 3.9 });
    const low = results.bySeed("x", { growth: 3.57 });
    return [
      judge(
        {
          id: "wild-is-wilder",
          statement: "x ends higher at r = 3.9 than at r = 3.57",
          printed: { value: 0.5, source: "Fig. 1" },
          measure: "difference of final x",
          direction: "above",
          threshold: 0,
        },
        high.size > 0 && low.size > 0 ? bootstrapInterval(high, low) : undefined,
      ),
      judge(
        {
          id: "never",
          statement: "Something that only the paper's scale can show",
          measure: "nothing",
          direction: "above",
          threshold: 1,
        },
        undefined,
      ),
    ];
  },
};

function misbehave(fault: string | number | boolean | undefined, mark: string): void {
  if (fault === "throw") throw new Error("the toy broke");
  if (fault === "die" || (fault === "die once" && !existsSync(mark))) {
    console.error("last words of the toy");
    process.exit(3);
  }
  if (fault === "grow") {
    // Up to 4 GiB, a thousandth at a time, so that a limit is met long before the machine's.
    const kept: Uint8Array[] = [];
    for (let part = 0; part < 1024; part++) {
      kept.push(new Uint8Array(1 << 22).fill(part));
      for (const end = performance.now() + 2; performance.now() < end;);
    }
    throw new Error(`${kept.length} blocks were allocated`);
  }
  if (fault === "busy") { for (const end = performance.now() + 60_000; performance.now() < end;); }
}

export const experiments: readonly Experiment[] = [toy];
