/** Panels of keys, as WebAssembly: all of them, or those of a tile list, for the strips of a row of tiles. */
import {
  call,
  choose,
  type Code,
  countUp,
  doWhile,
  i32,
  type Local,
  sequence,
  set,
  tee,
  variables,
  when,
} from "../wasm/mod.ts";
import { type KernelFrame, smaller } from "./_wasm_frame.ts";
import { FLOAT, outputProduct, scoreProduct } from "./_wasm_products.ts";
import { maskScores, softmaxPart } from "./_wasm_softmax.ts";

/** What a strip does with `count` keys from `key` on: their scores; then their weights and their values' part of the output. */
interface StripWork {
  readonly scores: (key: Local, count: Local) => Code;
  readonly weigh: (key: Local, count: Local) => Code;
}

function stripWork(frame: KernelFrame): StripWork {
  const { module, run, settings, parameter, state, scores, pitch, rowBytes } = frame;
  const { k, v, keys } = parameter;
  const product = scoreProduct(module, settings);
  const softmax = softmaxPart(module, settings);
  const add = outputProduct(module, settings);
  const { blocks, all, last } = variables(run, "i32", "blocks", "all", "last");
  const block = settings.strip.rows;
  const row = (matrix: Local, at: Local) => i32.add(matrix, i32.mul(at, rowBytes));
  return {
    scores: (key, count) =>
      sequence(
        // Where there are fewer keys than a block, zeros follow them.
        set(all, choose("i32", i32.ltU(keys, block), block, keys)),
        set(blocks, i32.divU(i32.add(count, block - 1), block)),
        when(
          i32.gtS(i32.add(key, i32.mul(blocks, block)), all),
          // The last block would end behind the last key: it begins earlier.
          sequence(
            set(blocks, i32.sub(blocks, 1)),
            set(last, i32.sub(all, block)),
            call(
              product.index,
              row(k, last),
              state,
              i32.add(scores, i32.mul(i32.sub(last, key), pitch)),
              1,
            ),
          ),
        ),
        when(blocks, call(product.index, row(k, key), state, scores, blocks)),
      ),
    weigh: (key, count) =>
      sequence(
        call(softmax.index, scores, count, frame.statistics, frame.sums),
        call(add.index, row(v, key), scores, frame.sums, count),
      ),
  };
}

/** Dense: all keys, panel after panel. */
export function allPanels(frame: KernelFrame): Code {
  const { run, parameter: { keys }, panels: { panelKeys } } = frame;
  const { key, count } = variables(run, "i32", "key", "count");
  const work = stripWork(frame);
  return countUp(
    key,
    0,
    keys,
    panelKeys,
    sequence(
      set(count, smaller(i32.sub(keys, key), panelKeys)),
      frame.eachStrip(sequence(work.scores(key, count), work.weigh(key, count))),
    ),
  );
}

/** The tiles of a row of the list: panels are runs of tiles side by side. */
export function listedPanels(frame: KernelFrame, tileKeys: number): Code {
  const { run, parameter: { starts, columns }, panels: { panelKeys }, tileRow } = frame;
  const { tile, lastTile, panelTile, column, firstColumn } = variables(
    run,
    "i32",
    "tile",
    "lastTile",
    "panelTile",
    "column",
    "firstColumn",
  );
  const start = i32.add(starts, i32.shl(tileRow, 2));
  const follows = i32.eq(word(columns, tile), column);
  const fits = i32.ltS(i32.sub(column, firstColumn), panelKeys / tileKeys);
  return sequence(
    set(tile, i32.load(start)),
    set(lastTile, i32.load(start, FLOAT)),
    when(
      i32.ltS(tile, lastTile),
      doWhile(
        sequence(
          set(panelTile, tile),
          set(column, tee(firstColumn, word(columns, tile))),
          doWhile(
            sequence(set(tile, i32.add(tile, 1)), set(column, i32.add(column, 1))),
            choose("i32", i32.ltS(tile, lastTile), i32.and(follows, fits), 0),
          ),
          frame.eachStrip(listedPanel(frame, tileKeys, [panelTile, tile], firstColumn)),
        ),
        i32.ltS(tile, lastTile),
      ),
    ),
  );
}

/** Keys without use that are computed rather than a run of keys ended and another one begun. */
const BRIDGED = 4;

/**
 * A strip and a panel of listed tiles: runs of keys, each from the first key that one of the strip's queries sees to the last one, with
 * short gaps.
 */
function listedPanel(
  frame: KernelFrame,
  tileKeys: number,
  [firstTile, endTile]: readonly [Local, Local],
  firstColumn: Local,
): Code {
  const { run, parameter: { keys, edges } } = frame;
  const { tile, edge, bits, offset } = variables(run, "i32", "tile", "edge", "bits", "offset");
  const { from, to, low } = variables(run, "i32", "from", "to", "low");
  const patterns = new StripPatterns(frame, tileKeys);
  const isEnd = i32.eq(tile, endTile);
  const isApart = i32.gtS(low, i32.add(to, BRIDGED));
  const isOver = choose("i32", isEnd, 1, choose("i32", bits, isApart, 0));
  return sequence(
    set(tile, firstTile),
    set(offset, 0),
    set(from, -1),
    doWhile(
      sequence(
        set(bits, 0),
        when(
          i32.ltS(tile, endTile),
          sequence(
            set(bits, patterns.all),
            set(edge, word(edges, tile)),
            when(i32.geS(edge, 0), set(bits, patterns.words(edge, i32.or))),
          ),
        ),
        set(low, i32.add(offset, i32.ctz(bits))),
        when(
          i32.and(i32.geS(from, 0), isOver),
          sequence(
            listedRun(frame, tileKeys, patterns, { firstTile, firstColumn, from, to }),
            set(from, -1),
          ),
        ),
        when(
          bits,
          sequence(
            when(i32.ltS(from, 0), set(from, low)),
            set(to, i32.add(offset, i32.sub(32, i32.clz(bits)))),
            set(to, smaller(to, i32.sub(keys, i32.mul(firstColumn, tileKeys)))),
          ),
        ),
        set(offset, i32.add(offset, tileKeys)),
        set(tile, i32.add(tile, 1)),
      ),
      i32.leS(tile, endTile),
    ),
  );
}

/** The patterns of tiles at edges as the current strip sees them: a word for each query, and so as many bytes as a strip's row. */
class StripPatterns {
  readonly #frame: KernelFrame;
  readonly #pattern: Local;
  /** The word of a query that sees all keys of the tile. */
  readonly all: number;

  constructor(frame: KernelFrame, tileKeys: number) {
    this.#frame = frame;
    this.#pattern = frame.run.local("i32");
    this.all = tileKeys === 32 ? -1 : 2 ** tileKeys - 1;
  }

  /** The address of the words of a pattern. */
  address(edge: Local): Code {
    const { parameter, panels, strip, pitch } = this.#frame;
    const pattern = i32.add(parameter.patterns, i32.mul(edge, panels.tileQueries * FLOAT));
    return i32.add(pattern, i32.mul(strip, pitch));
  }

  /** Its words in one. */
  words(edge: Local, combine: typeof i32.or): Code {
    const words = Array.from(
      { length: this.#frame.pitch / FLOAT },
      (_, index): Code => i32.load(this.#pattern, index * FLOAT),
    );
    return sequence(set(this.#pattern, this.address(edge)), words.reduce((a, b) => combine(a, b)));
  }
}

/** Keys `from` ... `to` - 1 of a panel, counted from its first one. */
function listedRun(
  frame: KernelFrame,
  tileKeys: number,
  patterns: StripPatterns,
  { firstTile, firstColumn, from, to }: Readonly<Record<"firstTile" | "firstColumn" | "from" | "to", Local>>,
): Code {
  const { run, parameter: { edges }, pitch, scores } = frame;
  const { key, count, edge, offset, low, high } = variables(
    run,
    "i32",
    "key",
    "count",
    "edge",
    "offset",
    "low",
    "high",
  );
  const work = stripWork(frame);
  const mask = maskScores(frame.module, frame.settings);
  const tile = i32.add(firstTile, i32.divU(offset, tileKeys));
  return sequence(
    set(key, i32.add(i32.mul(firstColumn, tileKeys), from)),
    set(count, i32.sub(to, from)),
    work.scores(key, count),
    countUp(
      offset,
      i32.and(from, -tileKeys),
      to,
      tileKeys,
      sequence(
        set(edge, i32.load(i32.add(edges, i32.shl(tile, 2)))),
        // Most strips of a tile at an edge see all of it, or nothing.
        when(
          choose("i32", i32.geS(edge, 0), i32.ne(patterns.words(edge, i32.and), patterns.all), 0),
          sequence(
            set(low, choose("i32", i32.gtS(from, offset), i32.sub(from, offset), 0)),
            set(high, smaller(i32.sub(to, offset), tileKeys)),
            call(
              mask.index,
              i32.add(scores, i32.mul(i32.sub(offset, from), pitch)),
              patterns.address(edge),
              low,
              high,
            ),
          ),
        ),
      ),
    ),
    work.weigh(key, count),
  );
}

/** The integer number `at` of an array. */
function word(array: Local, at: Local): Code {
  return i32.load(i32.add(array, i32.shl(at, 2)));
}
