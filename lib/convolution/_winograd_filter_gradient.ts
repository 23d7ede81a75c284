/** What the gradients to filters by Winograd's minimal filtering share: sums of products over all tiles, mapped to the filter at the end. */
import { type Code, type Local, memory, set, variables } from "../wasm/mod.ts";
import { bytesOf } from "./_courses.ts";
import type { PaddedAxis } from "./_micro_kernels.ts";
import { type Blocks, eachBlock } from "./_winograd_blocks.ts";
import type { TileSource, WinogradBuilder } from "./_winograd_builder.ts";
import type { Axis, ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionKernel } from "./kernel.ts";

/** What the sums of a filter gradient are made of. */
export interface TileSums {
  readonly part: Local;
  readonly inputs: TileSource & { readonly from: Local };
  readonly gradients: TileSource & { readonly from: Local };
  /** Mapped inputs [place][tile][depth], mapped gradients [place][tile][output], and their products' sums [place][depth][output]. */
  readonly mapped: readonly [Local, Local, Local];
  /** Bytes from place to place in them. */
  readonly pitches: readonly [number, number, number];
}

/**
 * The gradient to a filter: `write` gives the code that adds a block of tiles of inputs, which `read` describes, and of gradients to
 * the sums, and the code that maps the sums to the filter. Of inputs a tile has `depth` numbers a place.
 */
export function winogradFilterGradient(
  builder: WinogradBuilder,
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  blocks: Blocks,
  depth: number,
  read: (axis: Axis) => PaddedAxis,
  write: (sums: TileSums, filter: Local) => { readonly block: Code; readonly back: Code },
): ConvolutionKernel {
  const [height, width] = axes;
  const { outputs: side, places } = builder.scheme;
  const { run } = builder;
  const [input, filter, output] = builder.parameters;
  const { images, tiles } = blocks;
  const { at, up, part } = variables(run, "i32", "at", "up", "part");
  run.add(set(at, input), set(up, output));
  const upstream = ({ output }: Axis): PaddedAxis => ({
    input: output,
    from: 0,
    length: Math.ceil(output / side) * side,
  });
  const inputs = builder.source([read(height), read(width)], channels, images, at);
  const gradients = builder.source([upstream(height), upstream(width)], outputs, images, up);
  const pitches = [bytesOf(tiles, depth), bytesOf(tiles, outputs), bytesOf(depth, outputs)] as const;
  const mapped = pitches.map((pitch) => builder.scratch(places * pitch)) as [Local, Local, Local];
  const { block, back } = write({ part, inputs, gradients, mapped, pitches }, filter);
  const inputBytes = bytesOf(height.input, width.input, channels);
  const outputBytes = bytesOf(height.output, width.output, outputs);
  run.add(
    memory.fill(mapped[2], 0, places * pitches[2]),
    eachBlock(
      builder,
      batch,
      blocks,
      part,
      [[at, inputBytes], [up, outputBytes]],
      [inputs.prepare, gradients.prepare],
      block,
    ),
    back,
  );
  return builder.kernel();
}
