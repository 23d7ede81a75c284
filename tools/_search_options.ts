/** The options of the command `search`, checked before anything is started. */
import { basename } from "node:path";
import {
  CONSTRAINTS,
  criterionOf,
  type SearchSetting,
  SETTINGS,
  taskOf,
} from "../experiments/evonorm/search.ts";
import type { Budget } from "../lib/evolution/mod.ts";
import type { Scale, TrialLimits } from "../lib/experiment/mod.ts";
import { anchors } from "../lib/models/mod.ts";
import { checkedBackend, checkedScale, parse, UsageError, wholeNumber } from "./_cli.ts";

const METHODS = ["evolution", "random"] as const;

/** A search as the command line asks for it. */
export interface SearchPlan {
  readonly seed: number;
  readonly scale: Scale;
  readonly setting: SearchSetting;
  readonly task: ReturnType<typeof taskOf>;
  readonly budget: Budget;
  /** So many of the best layers are ranked again. */
  readonly rerank: number;
  /** Asked for; more than the look-ahead would stay idle. */
  readonly workers: number;
  /** What is to compute; `auto` if that is open. */
  readonly backend: string;
  /** Where the images come from; empty for the scale's own. */
  readonly data: string;
  /** Those that were given, which replace the scale's own. */
  readonly limits: TrialLimits;
  readonly out: string;
}

/** @throws {UsageError} An option is unknown or out of range. */
export function searchPlan(args: readonly string[]): SearchPlan {
  const text = { type: "string" } as const;
  const { values } = parse(args, {
    budget: text,
    minutes: text,
    work: text,
    seed: { type: "string", default: "0" },
    workers: text,
    constraint: { type: "string", default: "none" },
    method: { type: "string", default: "evolution" },
    criterion: { type: "string", default: "pareto" },
    anchors: text,
    "no-rejection": { type: "boolean", default: false },
    quality: text,
    threshold: text,
    stability: text,
    rerank: { type: "string", default: "0" },
    scale: { type: "string", default: "laptop" },
    data: { type: "string", default: "" },
    backend: { type: "string", default: "auto" },
    "look-ahead": text,
    seconds: text,
    memory: text,
    out: { type: "string", default: "search" },
  }, []);
  const budget = defined({
    evaluations: wholeNumber("budget", values.budget, 1),
    elapsedSeconds: minutesOf(values.minutes),
    work: positive("work", values.work),
  });
  if (Object.keys(budget).length === 0) {
    throw new UsageError(
      "--budget must say how many candidates are evaluated, or --minutes or --work when the search ends",
    );
  }
  const scale = checkedScale(values.scale);
  const constraint = oneOf("constraint", values.constraint, CONSTRAINTS);
  const method = oneOf("method", values.method, METHODS);
  const task = withTests(
    taskOf(
      scale,
      {
        constraint,
        rejection: !values["no-rejection"],
        ...(values.anchors === undefined ? {} : { anchors: checkedAnchors(values.anchors) }),
      },
      basename(values.data),
    ),
    values,
  );
  const { moves } = SETTINGS[scale];
  const lookAhead = wholeNumber("look-ahead", values["look-ahead"], 1) ?? moves.lookAhead;
  try {
    criterionOf(values.criterion, task);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  return {
    seed: wholeNumber("seed", values.seed, 0)!,
    scale,
    setting: { method, constraint, criterion: values.criterion, ...moves, lookAhead },
    task,
    budget,
    rerank: wholeNumber("rerank", values.rerank, 0)!,
    workers: wholeNumber("workers", values.workers, 1) ?? navigator.hardwareConcurrency,
    backend: checkedBackend(values.backend),
    data: values.data,
    limits: defined({
      seconds: wholeNumber("seconds", values.seconds, 1),
      mib: wholeNumber("memory", values.memory, 1),
    }),
    out: values.out,
  };
}

/** A task with the tests that were asked for. */
function withTests(
  task: SearchPlan["task"],
  values: {
    readonly "no-rejection": boolean;
    readonly quality?: string;
    readonly threshold?: string;
    readonly stability?: string;
  },
): SearchPlan["task"] {
  const tests = defined({
    quality: wholeNumber("quality", values.quality, 0),
    threshold: positive("threshold", values.threshold),
    stability: wholeNumber("stability", values.stability, 0),
  });
  const [first] = Object.keys(tests);
  if (values["no-rejection"] && first !== undefined) {
    throw new UsageError(`--no-rejection leaves the tests out: --${first} says something of one`);
  }
  const { quality, threshold } = { ...task, ...tests };
  if (quality > task.steps) {
    throw new UsageError(
      `--quality must be at most ${task.steps}, the steps of training: current one is ${quality}`,
    );
  }
  if (threshold > 1) {
    throw new UsageError(`--threshold must be an accuracy, at most 1: current one is ${threshold}`);
  }
  return { ...task, ...tests };
}

/** Different anchors joined by "+". */
function checkedAnchors(text: string): string {
  const names = text.split("+");
  const unknown = names.find((name) => !Object.hasOwn(anchors, name));
  const repeated = names.find((name, k) => names.indexOf(name) < k);
  if (unknown === undefined && repeated === undefined) return text;
  throw new UsageError(
    `--anchors must be different ones of ${
      Object.keys(anchors).join(", ")
    }, joined by +: current ones are '${text}'`,
  );
}

function minutesOf(text: string | undefined): number | undefined {
  const minutes = positive("minutes", text);
  return minutes === undefined ? undefined : 60 * minutes;
}

/** A finite number above 0; undefined where the option was not given. */
function positive(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isFinite(value) && value > 0) return value;
  throw new UsageError(`--${name} must be a number above 0: current one is '${text}'`);
}

/** Entries that have a value. */
function defined<T extends Record<string, number | undefined>>(entries: T): { [K in keyof T]?: number } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: number;
  };
}

function oneOf<T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found !== undefined) return found;
  throw new UsageError(`--${name} must be one of ${choices.join(", ")}: current one is '${text}'`);
}
