/** The group `metrics`: PSNR, both definitions of SSIM and plain distances of pairs of pictures, and of a video. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  cosineSimilarity,
  meanSquaredError,
  type Picture,
  psnr,
  relativeL1,
  ssimGaussianReflect,
  ssimGaussianValid,
  type Video,
  videoPsnr,
  videoSsim,
} from "../../lib/diffusion/mod.ts";
import { readSafetensors, type SafetensorsTensor, toFloat32 } from "../../lib/tensor/mod.ts";
import { compare, type Comparison } from "./report.ts";

/** Non-finite numbers are text. */
type Value = number | string;

interface Pair {
  name: string;
  data_range: number;
  mse: Value;
  psnr: Value;
  psnr_skimage: Value;
  ssim_gaussian_valid: Value;
  ssim_skimage_gaussian: Value;
  ssim_torchmetrics: Value;
  ssim_gaussian_reflect: Value;
  rel_l1: Value;
  cosine: Value;
}

interface Reference {
  pairs: Pair[];
  video: {
    psnr_per_frame: Value[];
    psnr_mean_of_frames: Value;
    psnr_of_global_mse: Value;
    ssim_per_frame: Value[];
    ssim_mean: Value;
  };
}

/** Double on both sides, sums in another order; variances are differences of nearly equal numbers. */
const TOLERANCE = 1e-11;

/** Compares every figure of FOLDER/metrics.json; no backend is needed. */
export async function checkMetrics(
  folder: string,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { pairs, video }: Reference = JSON.parse(await readFile(join(folder, "metrics.json"), "utf8"));
  const read = async (name: string) => readSafetensors(await readFile(join(folder, name)));
  const pictures = await read("pairs.safetensors");
  const frames = await read("video.safetensors");
  return {
    comparisons: [...pairs.flatMap((pair) => checkPair(pair, pictures)), ...checkVideo(video, frames)],
    skipped: [],
  };
}

type Tensors = ReadonlyMap<string, SafetensorsTensor>;

function checkPair(pair: Pair, tensors: Tensors): Comparison[] {
  const [a, b] = ["a", "b"].map((side): Picture => {
    const tensor = tensors.get(`${pair.name}.${side}`)!;
    return { data: toFloat32(tensor), shape: tensor.shape as [number, number, number] };
  }) as [Picture, Picture];
  const range = pair.data_range;
  const found: [string, number, Value[]][] = [
    ["mse", meanSquaredError(a.data, b.data), [pair.mse]],
    ["PSNR", psnr(a.data, b.data, range), [pair.psnr, pair.psnr_skimage]],
    ["SSIM valid", ssimGaussianValid(a, b, range), [pair.ssim_gaussian_valid, pair.ssim_skimage_gaussian]],
    ["SSIM reflect", ssimGaussianReflect(a, b, range), [pair.ssim_gaussian_reflect, pair.ssim_torchmetrics]],
    ["relative L1", relativeL1(a.data, b.data), [pair.rel_l1]],
    ["cosine", cosineSimilarity(a.data, b.data), [pair.cosine]],
  ];
  return found.map(([kind, measured, references]) =>
    equal(`${pair.name}/${kind}`, references.map(() => measured), references)
  );
}

function checkVideo(reference: Reference["video"], tensors: Tensors): Comparison[] {
  const [a, b] = ["a", "b"].map((side): Video => {
    const tensor = tensors.get(side)!;
    return { data: toFloat32(tensor), shape: tensor.shape as [number, number, number, number] };
  }) as [Video, Video];
  const ratio = videoPsnr(a, b);
  const similarity = videoSsim(a, b, ssimGaussianValid);
  return [
    equal("video/PSNR of frames", ratio.perFrame, reference.psnr_per_frame),
    equal("video/PSNR, frame mean", [ratio.frameMean], [reference.psnr_mean_of_frames]),
    equal("video/PSNR, global", [ratio.global], [reference.psnr_of_global_mse]),
    equal("video/SSIM of frames", similarity.perFrame, reference.ssim_per_frame),
    equal("video/SSIM, frame mean", [similarity.frameMean], [reference.ssim_mean]),
  ];
}

function equal(name: string, measured: readonly number[], reference: readonly Value[]): Comparison {
  return compare(`metrics/${name}`, measured, reference.map(Number), [reference.length], TOLERANCE);
}
