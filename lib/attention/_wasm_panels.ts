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

/** A strip and a panel of listed tiles: from the first key that one of its queries sees to the last one. */
function listedPanel(
  frame: KernelFrame,
  tileKeys: number,
  [firstTile, endTile]: readonly [Local, Local],
  firstColumn: Local,
): Code {
  const { run, parameter: { edges, patterns, keys }, pitch, scores } = frame;
  const { tile, edge, pattern, bits, offset } = variables(
    run,
    "i32",
    "tile",
    "edge",
    "pattern",
    "bits",
    "offset",
  );
  const { from, to, key, count, low, high } = variables(
    run,
    "i32",
    "from",
    "to",
    "key",
    "count",
    "low",
    "high",
  );
  const work = stripWork(frame);
  const mask = maskScores(frame.module, frame.settings);
  const patternBytes = frame.panels.tileQueries * FLOAT;
  const eachTile = (body: Code) =>
    sequence(
      set(offset, 0),
      countUp(
        tile,
        firstTile,
        endTile,
        1,
        sequence(set(edge, word(edges, tile)), body, set(offset, i32.add(offset, tileKeys))),
      ),
    );
  const locatePattern = set(
    pattern,
    i32.add(i32.add(patterns, i32.mul(edge, patternBytes)), i32.mul(frame.strip, pitch)),
  );
  // A pattern has a word for each query, and so a strip's row has as many bytes as its words.
  const words = (combine: typeof i32.or) =>
    Array.from({ length: pitch / FLOAT }, (_, index): Code => i32.load(pattern, index * FLOAT))
      .reduce((a, b) => combine(a, b));
  const all = tileKeys === 32 ? -1 : 2 ** tileKeys - 1;
  return sequence(
    set(from, -1),
    set(to, 0),
    eachTile(sequence(
      set(bits, all),
      when(i32.geS(edge, 0), sequence(locatePattern, set(bits, words(i32.or)))),
      when(
        bits,
        sequence(
          when(i32.ltS(from, 0), set(from, i32.add(offset, i32.ctz(bits)))),
          set(to, i32.add(offset, i32.sub(32, i32.clz(bits)))),
        ),
      ),
    )),
    set(key, i32.mul(firstColumn, tileKeys)),
    set(to, smaller(to, i32.sub(keys, key))),
    set(key, i32.add(key, from)),
    set(count, i32.sub(to, from)),
    when(
      i32.geS(from, 0),
      sequence(
        work.scores(key, count),
        eachTile(when(
          i32.geS(edge, 0),
          sequence(
            set(low, choose("i32", i32.gtS(from, offset), i32.sub(from, offset), 0)),
            set(high, smaller(i32.sub(to, offset), tileKeys)),
            locatePattern,
            // Most strips of a tile at an edge see all of it, or nothing.
            when(
              i32.and(i32.ltS(low, high), i32.ne(words(i32.and), all)),
              call(
                mask.index,
                i32.add(scores, i32.mul(i32.sub(offset, from), pitch)),
                pattern,
                low,
                high,
              ),
            ),
          ),
        )),
        work.weigh(key, count),
      ),
    ),
  );
}

/** The integer number `at` of an array. */
function word(array: Local, at: Local): Code {
  return i32.load(i32.add(array, i32.shl(at, 2)));
}
