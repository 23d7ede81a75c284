/** Which pixels meet in depthwise convolutions, and where kernels read them. */
import { call, type Code, i32, type Local, ModuleBuilder, sequence, set } from "../wasm/mod.ts";
import { bytesOf, type Course, ScratchPlan } from "./_courses.ts";
import { padImages, wholeVectors } from "./_micro_kernels.ts";

/** Neighbouring target pixels that read the same taps, places `start` up to below `end` of a course; the others lie outside. */
export interface Stretch {
  readonly first: number;
  readonly count: number;
  readonly start: number;
  readonly end: number;
}

export function stretchesOf({ count, from, stride, dilation, taps }: Course, input: number): Stretch[] {
  const stretches: Stretch[] = [];
  for (let index = 0; index < count; index++) {
    const inside = taps.map((_, place) => from + stride * index + dilation * place)
      .map((pixel) => pixel >= 0 && pixel < input);
    const start = Math.max(inside.indexOf(true), 0);
    const end = inside.lastIndexOf(true) + 1;
    const last = stretches.at(-1);
    if (last?.start === start && last.end === end) {
      stretches[stretches.length - 1] = { ...last, count: last.count + 1 };
    } else stretches.push({ first: index, count: 1, start, end });
  }
  return stretches;
}

/** Pixels of a stretch as tiles: as many of `size` as fit, then the rest. */
export function tilesOf(
  count: number,
  size: number,
): { readonly size: number; readonly count: number; readonly at: number }[] {
  const full = Math.floor(count / size);
  return [{ size, count: full, at: 0 }, { size: count % size, count: 1, at: full * size }]
    .filter(({ size, count }) => size * count > 0);
}

/** The source pixels that tiles of `size` targets read, each with the pairs of target and tap that meet there. */
export function meetings(
  { stride, dilation }: Course,
  { start, end }: Stretch,
  size: number,
): { readonly pixel: number; readonly pairs: { readonly target: number; readonly place: number }[] }[] {
  const found = new Map<number, { target: number; place: number }[]>();
  for (let target = 0; target < size; target++) {
    for (let place = start; place < end; place++) {
      const pixel = stride * target + dilation * (place - start);
      found.set(pixel, [...found.get(pixel) ?? [], { target, place }]);
    }
  }
  return [...found].toSorted(([a], [b]) => a - b).map(([pixel, pairs]) => ({ pixel, pairs }));
}

/** Tensors as the kernels read them: channels in whole vectors, if need be in copies of a few images at a time. */
export class Sources {
  readonly module = new ModuleBuilder();
  readonly run = this.module.function("run", ["i32", "i32", "i32", "i32"]);
  readonly plan = new ScratchPlan();
  readonly #wide: number;

  constructor(readonly channels: number, readonly relaxed: boolean) {
    this.#wide = wholeVectors(channels);
  }

  scratch(bytes: number): Local {
    const address = this.run.local("i32");
    this.run.add(set(address, i32.add(this.run.params[3]!, this.plan.take(bytes))));
    return address;
  }

  /** Where images [h, w, c] at `at` are read, and what makes them readable. */
  images(
    at: Local,
    images: number,
    height: number,
    width: number,
  ): { readonly from: Local; readonly prepare: Code } {
    if (this.#wide === this.channels) return { from: at, prepare: sequence() };
    const from = this.scratch(bytesOf(images, height, width, this.#wide));
    const whole = (size: number) => ({ input: size, from: 0, length: size });
    const copy = padImages(this.module, [whole(height), whole(width)], this.channels, this.#wide);
    return { from, prepare: call(copy.index, at, from, images) };
  }
}
