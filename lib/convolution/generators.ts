import { depthwiseConvolution } from "./depthwise.ts";
import { directConvolution } from "./direct.ts";
import type { ConvolutionGenerator } from "./kernel.ts";
import { stridedWinogradConvolution } from "./strided_winograd.ts";
import { winogradConvolution } from "./winograd.ts";

/** All of them, the fastest first: the first that takes a convolution is the one to ask. */
export const convolutionGenerators: readonly ConvolutionGenerator[] = [
  winogradConvolution,
  stridedWinogradConvolution,
  directConvolution,
  depthwiseConvolution,
];
