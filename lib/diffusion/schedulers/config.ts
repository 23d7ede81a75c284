/** Schedulers from the scheduler_config.json that diffusers writes. */
import { readFile } from "node:fs/promises";
import type { Scheduler } from "../types.ts";
import { Settings } from "./_settings.ts";
import { cogVideoXDdim, cogVideoXDpm } from "./cogvideox.ts";
import { ddim } from "./ddim.ts";
import { ddpm } from "./ddpm.ts";
import { dpmSolver } from "./dpm_solver.ts";
import { flowEuler, type FlowOptions } from "./flow_euler.ts";

/** The settings of a scheduler, under `_class_name` its class. */
export type SchedulerConfig = Readonly<Record<string, unknown>>;

/** What a run may choose beside the config; each belongs to one class and is an error with another. */
export interface SchedulerOptions extends FlowOptions {
  /** DDIMScheduler: how much noise each step adds, from 0 (none, the default) to 1 (as much as DDPM). */
  readonly eta?: number;
}

const classes: Readonly<Record<string, (settings: Settings, options: SchedulerOptions) => Scheduler>> = {
  DDPMScheduler: ddpm,
  DDIMScheduler(settings, { eta = 0 }) {
    if (!(eta >= 0 && eta <= 1)) {
      throw new RangeError(`Cannot make DDIMScheduler as 'eta' must be in [0, 1]: current eta is ${eta}`);
    }
    settings.add("eta", eta);
    return ddim(settings, eta);
  },
  DPMSolverMultistepScheduler: dpmSolver,
  CogVideoXDDIMScheduler: cogVideoXDdim,
  CogVideoXDPMScheduler: cogVideoXDpm,
  FlowMatchEulerDiscreteScheduler: flowEuler,
};

/** Which class takes an option. */
const optionClasses: Readonly<Record<keyof SchedulerOptions, string>> = {
  eta: "DDIMScheduler",
  mu: "FlowMatchEulerDiscreteScheduler",
  sigmas: "FlowMatchEulerDiscreteScheduler",
};

/**
 * The scheduler that `config` describes; settings that are missing are those of diffusers.
 *
 * @example
 * ```ts
 * import { makeScheduler } from "@normlab/normlab/diffusion";
 *
 * const scheduler = makeScheduler({ _class_name: "DDIMScheduler", clip_sample: false });
 * console.log(scheduler.begin(4).timesteps); // [750, 500, 250, 0]
 * ```
 *
 * @throws {RangeError} The class is unknown, or a setting or option is not supported: the message names it.
 * @throws {TypeError} A setting is of another type, or the config is no object.
 */
export function makeScheduler(config: SchedulerConfig, options: SchedulerOptions = {}): Scheduler {
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new TypeError(
      `Cannot make a scheduler as 'config' must be an object of settings: current config is ${
        JSON.stringify(config) ?? config
      }`,
    );
  }
  const name = config._class_name;
  if (typeof name !== "string" || !Object.hasOwn(classes, name)) {
    throw new RangeError(
      `Cannot make a scheduler as '_class_name' must be one of ${
        Object.keys(classes).join(", ")
      }: current _class_name is ${JSON.stringify(name) ?? "missing"}`,
    );
  }
  for (const [option, value] of Object.entries(options)) {
    if (value !== undefined && optionClasses[option as keyof SchedulerOptions] !== name) {
      throw new RangeError(
        `Cannot make ${name} as it must be ${
          optionClasses[option as keyof SchedulerOptions] ?? "another class"
        } to take the option '${option}': current ${option} is ${value}`,
      );
    }
  }
  return classes[name]!(new Settings(name, config), options);
}

/**
 * The settings in the text of a scheduler_config.json. Python writes numbers that JSON does not have: `Infinity`, `-Infinity` and `NaN` are
 * read too.
 * @throws {SyntaxError} The text is not of that form, or no object.
 */
export function parseSchedulerConfig(text: string): SchedulerConfig {
  const strings = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g;
  const standard = text.replace(strings, (match) => (match.startsWith('"') ? match : `"${match}"`));
  let config: unknown;
  try {
    config = JSON.parse(standard);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read a scheduler's settings as the text must be JSON: ${(error as Error).message}`,
      { cause: error },
    );
  }
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new SyntaxError(
      `Cannot read a scheduler's settings as the text must be an object: current text begins ${
        JSON.stringify(text.slice(0, 40))
      }`,
    );
  }
  return config as SchedulerConfig;
}

/**
 * {@linkcode makeScheduler} of the file at `path`.
 * @throws {SyntaxError} as {@linkcode parseSchedulerConfig}, naming the file
 * @throws {RangeError | TypeError} as {@linkcode makeScheduler}
 */
export async function readScheduler(path: string, options: SchedulerOptions = {}): Promise<Scheduler> {
  const text = await readFile(path, "utf8");
  try {
    return makeScheduler(parseSchedulerConfig(text), options);
  } catch (error) {
    if (error instanceof Error) error.message = `${path}: ${error.message}`;
    throw error;
  }
}

/** Token counts and shifts between which {@linkcode dynamicShift} interpolates: settings of the config. */
export interface DynamicShiftSettings {
  readonly base_image_seq_len?: number;
  readonly max_image_seq_len?: number;
  readonly base_shift?: number;
  readonly max_shift?: number;
}

/**
 * `mu` for images of `tokens` tokens: linear from `base_shift` at `base_image_seq_len` to `max_shift` at `max_image_seq_len`.
 *
 * Source: `calculate_shift` of the Flux pipeline of diffusers.
 */
export function dynamicShift(tokens: number, settings: DynamicShiftSettings = {}): number {
  const { base_image_seq_len: base = 256, max_image_seq_len: most = 4096 } = settings;
  const { base_shift: low = 0.5, max_shift: high = 1.15 } = settings;
  const slope = (high - low) / (most - base);
  return tokens * slope + (low - slope * base);
}
