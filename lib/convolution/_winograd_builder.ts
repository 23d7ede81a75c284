/** Parts of Winograd convolutions: mapping tiles to and fro, products place by place. */
import {
  call,
  type Code,
  i32,
  type Local,
  memory,
  ModuleBuilder,
  type Operand,
  sequence,
  set,
  v128,
  variables,
} from "../wasm/mod.ts";
import { bytesOf, ScratchPlan } from "./_courses.ts";
import {
  columnBlocks,
  type PaddedAxis,
  padImages,
  type Product,
  productTiles,
  repeat,
  rowTiles,
} from "./_micro_kernels.ts";
import { type Matrix, type Scheme, TileMapper } from "./_winograd_transforms.ts";
import type { ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** Images of which tiles are read: padded copies in the scratch, or the images themselves. */
export interface TileSource {
  readonly channels: number;
  readonly rowPitch: number;
  readonly imagePitch: number;
}

/** Maps between tiles in memory; offsets in bytes. */
export interface TileMapping {
  readonly rowMap: Matrix;
  readonly columnMap: Matrix;
  readonly tiles: number;
  /** Vectors per tile and place. */
  readonly vectors: number;
  readonly load: (row: number, column: number) => number;
  /** Null for what is not there. */
  readonly store: (row: number, column: number) => number | null;
  /** From a tile to the next. */
  readonly sourceStep: number;
  readonly targetStep: number;
}

/** Which taps of a filter are mapped how, and the place of each result. */
export interface FilterMapping {
  readonly rows: readonly number[];
  readonly columns: readonly number[];
  readonly rowMap: Matrix;
  readonly columnMap: Matrix;
  readonly place: (row: number, column: number) => number;
}

/** Writes kernels; its functions are those of one scheme. */
export class WinogradBuilder {
  readonly module = new ModuleBuilder();
  readonly run = this.module.function("run", ["i32", "i32", "i32", "i32"]);
  readonly plan = new ScratchPlan();

  constructor(readonly scheme: Scheme, readonly settings: GeneratorSettings) {}

  get parameters(): readonly [Local, Local, Local, Local] {
    return this.run.params;
  }

  /** An address in the scratch. */
  scratch(bytes: number): Local {
    const address = this.run.local("i32");
    this.run.add(set(address, i32.add(this.parameters[3], this.plan.take(bytes))));
    return address;
  }

  kernel(): ConvolutionKernel {
    return { bytes: this.module.bytes(this.settings.pages), scratchBytes: this.plan.bytes };
  }

  /**
   * Where tiles are read: if they leave the images, from copies with zeros around, made for `images` at a time. `at` is the address
   * of the images, `from` becomes that of what is read.
   */
  source(
    [height, width]: readonly [PaddedAxis, PaddedAxis],
    channels: number,
    images: number,
    at: Local,
  ): TileSource & { from: Local; prepare: Code } {
    const inside = ({ from, length, input }: PaddedAxis) => from >= 0 && from + length <= input;
    const padded = !(inside(height) && inside(width));
    const rowPitch = bytesOf(padded ? width.length : width.input, channels);
    const imagePitch = (padded ? height.length : height.input) * rowPitch;
    if (!padded) {
      const from = this.run.local("i32");
      const prepare = set(from, i32.add(at, height.from * rowPitch + bytesOf(width.from, channels)));
      return { channels, rowPitch, imagePitch, from, prepare };
    }
    const from = this.scratch(images * imagePitch);
    const copy = padImages(this.module, [height, width], channels, channels);
    this.run.add(memory.fill(from, 0, images * imagePitch));
    return { channels, rowPitch, imagePitch, from, prepare: call(copy.index, at, from, images) };
  }

  /** A function (source, target): maps neighbouring tiles, vectors of numbers being next to each other in both. */
  mapping({ rowMap, columnMap, tiles, vectors, load, store, sourceStep, targetStep }: TileMapping): number {
    const mapping = this.module.function(undefined, ["i32", "i32"]);
    const [source, target] = mapping.params;
    const mapper = new TileMapper(mapping, this.settings.relaxed);
    const body = mapper.tile(
      rowMap,
      columnMap,
      (row, column) => v128.load(source, load(row, column)),
      (row, column, value) => {
        const offset = store(row, column);
        return offset === null ? sequence() : v128.store(target, value, offset);
      },
    );
    mapping.add(
      mapper.constants(),
      repeat(
        mapping,
        tiles,
        [[source, sourceStep - 16 * vectors], [target, targetStep - 16 * vectors]],
        repeat(mapping, vectors, [[source, 16], [target, 16]], body),
      ),
    );
    return mapping.index;
  }

  /**
   * A function (filter, target): maps taps of a filter [3, 3, inner, columns] to [place][block of columns][depth][columns of the
   * block], the rows from `start` on of the depth.
   */
  mapFilter(
    { rows, columns: across, rowMap, columnMap, place }: FilterMapping,
    inner: number,
    columns: number,
    depth = inner,
    start = 0,
  ): number {
    const mapping = this.module.function(undefined, ["i32", "i32"]);
    const [filter, target] = mapping.params;
    const { source, written } = variables(mapping, "i32", "source", "written");
    const mapper = new TileMapper(mapping, this.settings.relaxed);
    const loops = columnBlocks(columns).map(({ count, vectors }) => {
      const vector = sequence(
        mapper.tile(
          rowMap,
          columnMap,
          (tapRow, tap) => v128.load(source, bytesOf(3 * rows[tapRow]! + across[tap]!, inner, columns)),
          (placeRow, placeColumn, value) =>
            v128.store(written, value, bytesOf(place(placeRow, placeColumn), depth, columns)),
        ),
        set(source, i32.add(source, 16)),
        set(written, i32.add(written, 16)),
      );
      const line = Array.from({ length: vectors }, () => vector);
      return repeat(
        mapping,
        count,
        [[filter, 16 * vectors], [target, 16 * vectors * depth]],
        sequence(
          set(source, filter),
          set(written, i32.add(target, 16 * vectors * start)),
          repeat(mapping, inner, [[source, bytesOf(columns) - 16 * vectors]], sequence(...line)),
        ),
      );
    });
    mapping.add(mapper.constants(), ...loops);
    return mapping.index;
  }

  /** For each place: left [rows of tiles] times right, into out; the three advance by the given bytes from place to place. */
  products(
    product: (lanes: number) => Product,
    rows: number,
    columns: number,
    [left, right, out]: readonly [Operand, Operand, Operand],
    [leftPlace, rightPlace, outPlace]: readonly [number, number, number],
    rightBlock: (lanes: number) => number,
    places = this.scheme.places,
  ): Code {
    const { a, b, o } = variables(this.run, "i32", "a", "b", "o");
    const blocks = columnBlocks(columns).map((block) => {
      const lanes = block.vectors * 4;
      const shape = product(lanes);
      const calls: Code[] = [];
      let done = 0;
      for (const { rows: size, count } of rowTiles(rows)) {
        const { index } = productTiles(this.module, shape, size, block);
        calls.push(
          call(index, i32.add(a, done * shape.leftPitch), b, i32.add(o, done * shape.outPitch), count),
        );
        done += size * count;
      }
      return repeat(this.run, block.count, [[b, rightBlock(lanes)], [o, bytesOf(lanes)]], sequence(...calls));
    });
    const across = bytesOf(columns);
    const rightRow = columnBlocks(columns).reduce(
      (sum, { count, vectors }) => sum + count * rightBlock(vectors * 4),
      0,
    );
    return sequence(
      set(a, left),
      set(b, right),
      set(o, out),
      repeat(
        this.run,
        places,
        [[a, leftPlace], [b, rightPlace - rightRow], [o, outPlace - across]],
        sequence(...blocks),
      ),
    );
  }
}
