/** The group `embeddings`: position and time embeddings at the published shapes, against sampled rows and sums of the whole tables. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  cropRegion,
  type EmbeddingTable,
  rotary2d,
  rotary3d,
  type RotaryTables,
  sinCos2d,
  sinCos3d,
  timestepEmbedding,
} from "../../lib/models/mod.ts";
import { readSafetensors } from "../../lib/tensor/mod.ts";
import { compare, type Comparison } from "./report.ts";

/** A table of the reference values: parameters and statistics of the whole, in double. */
interface Item {
  rows_total: number;
  width: number;
  mean: number;
  sum_abs: number;
  grid: number | [number, number];
  base: number;
  base_size: number;
  interpolation_scale: number;
  spatial_interpolation_scale: number;
  temporal_interpolation_scale: number;
  frames: number;
  crops?: [[number, number], [number, number]];
  timesteps: number[];
  embedding_dim: number;
  flip_sin_to_cos: boolean;
  downscale_freq_shift: number;
}

/** float32 roundings of angles: half a unit in the last place of the largest angle (999: 3e-5), and one more of its frequency. */
const ANGLE = 1e-4;
/** Angles in double on both sides: the rounding of the result. */
const TABLE = 1e-6;

/** Compares every table of FOLDER/published_shapes; no backend is needed. */
export async function checkEmbeddings(
  folder: string,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { items }: { items: Record<string, Item> } = JSON.parse(
    await readFile(join(folder, "published_shapes.json"), "utf8"),
  );
  const tensors = readSafetensors(await readFile(join(folder, "published_shapes.safetensors")));
  const comparisons: Comparison[] = [];
  for (const [name, item] of Object.entries(items)) {
    const values = (key: string) => {
      const tensor = tensors.get(key);
      if (!tensor) {
        throw new TypeError(`Cannot check '${name}' as the file must hold '${key}': it is missing`);
      }
      return tensor;
    };
    const add = (
      part: string,
      measured: ArrayLike<number>,
      reference: ArrayLike<number>,
      tolerance: number,
    ) =>
      comparisons.push(
        compare(`embeddings/${name}/${part}`, measured, reference, [reference.length], tolerance, 1),
      );
    const { data, shape: [rows, width] } = tableOf(name, item);
    if (name.startsWith("time.")) {
      const table = values(name);
      add("shape", [rows, width], table.shape, 0);
      add("values", data, table.data as Float32Array, ANGLE);
      continue;
    }
    const sampled = Array.from(values(`${name}.rows`).data, Number);
    const picked = Float32Array.from(
      sampled.flatMap((row) => [...data.subarray(row * width, (row + 1) * width)]),
    );
    const tolerance = name.startsWith("rope") ? ANGLE : TABLE;
    add("shape", [rows, width], [item.rows_total, item.width], 0);
    add("values", picked, values(`${name}.values`).data as Float32Array, tolerance);
    let [sum, magnitude] = [0, 0];
    for (const value of data) {
      sum += value;
      magnitude += Math.abs(value);
    }
    const elements = rows * width;
    add("whole", [sum / elements, magnitude / elements], [item.mean, item.sum_abs / elements], 1e-6);
  }
  return { comparisons, skipped: [] };
}

function tableOf(name: string, item: Item): EmbeddingTable {
  const [kind, model, part] = name.split(".") as [string, string, keyof RotaryTables];
  const [height, width] = Array.isArray(item.grid) ? item.grid : [item.grid, item.grid];
  switch (kind) {
    case "sincos2d":
      return sinCos2d(item.width, {
        height,
        width,
        baseSize: item.base_size,
        interpolationScale: item.interpolation_scale,
      });
    case "sincos3d":
      return sinCos3d(item.width, {
        frames: item.frames,
        height: 30,
        width: 45,
        spatialInterpolationScale: item.spatial_interpolation_scale,
        temporalInterpolationScale: item.temporal_interpolation_scale,
      });
    case "rope2d": {
      const crop = cropRegion({ height, width }, { height: item.base, width: item.base });
      return rotary2d(item.width, { height, width, crop })[part];
    }
    case "rope3d": {
      const grid = { frames: item.frames, height, width };
      const crop = item.crops && cropRegion(grid, { height: 30, width: 45 });
      // "cogvideox1.5_5b_slice" has a dot of its own.
      return rotary3d(item.width, crop ? { ...grid, crop } : grid)[name.endsWith("sin") ? "sin" : "cos"];
    }
    case "time":
      return timestepEmbedding(item.timesteps, item.embedding_dim, {
        cosinesFirst: item.flip_sin_to_cos,
        frequencyShift: item.downscale_freq_shift,
      });
    default:
      throw new TypeError(
        `Cannot check '${name}' as its kind must be a known embedding: current kind is '${kind}' of ${model}`,
      );
  }
}
