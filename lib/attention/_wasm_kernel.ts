/**
 * Attention as a WebAssembly module for a head's dimension: tile row by tile row of the queries, over the keys a panel at a time with
 * the softmax carried along, so that scores exist for a strip of queries and a panel of keys only.
 */
import {
  call,
  choose,
  type Code,
  countUp,
  doWhile,
  type FunctionBuilder,
  i32,
  type Local,
  memory,
  ModuleBuilder,
  type Operand,
  sequence,
  set,
  tee,
  variables,
  when,
} from "../wasm/mod.ts";
import { FLOAT, type KernelSettings, outputProduct, scoreProduct, stripBytes } from "./_wasm_products.ts";
import { maskScores, softmaxPart, startSoftmax } from "./_wasm_softmax.ts";
import { finishStrip, packStrip, type Results } from "./_wasm_strips.ts";

/** What is worked on at a time. */
export interface Panels {
  /** Queries of a row of tiles: a multiple of the strip's. */
  readonly tileQueries: number;
  /** Keys of a tile of a list, a power of two up to 32; null without a list. */
  readonly tileKeys: number | null;
  /** Keys of a panel at most; with a list a multiple of the tile's. */
  readonly panelKeys: number;
}

/** A kernel: the module exports `run`, whose parameters are {@link KERNEL_PARAMETERS}, addresses but for the last three. */
export interface AttentionKernel {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Bytes at `scratch` that the kernel overwrites; the address must be a multiple of 16. */
  readonly scratchBytes: number;
}

/** Of one head; `starts`, `columns`, `edges` and `patterns` are those of a tile list. */
export const KERNEL_PARAMETERS = [
  "q",
  "k",
  "v",
  "output",
  "lse",
  "rho",
  "residual",
  "scratch",
  "starts",
  "columns",
  "edges",
  "patterns",
  "queries",
  "keys",
  "scale",
] as const;

type Parameter = typeof KERNEL_PARAMETERS[number];

/** Makes the kernel. `scale` is that of the scores over ln 2. */
export function attentionKernel(
  settings: KernelSettings,
  panels: Panels,
  results: Results,
  pages: number,
): AttentionKernel {
  return new KernelBuilder(settings, panels, results).kernel(pages);
}

class KernelBuilder {
  readonly #module = new ModuleBuilder();
  readonly #settings: KernelSettings;
  readonly #panels: Panels;
  readonly #results: Results;
  readonly #run: FunctionBuilder;
  readonly #parameter: Readonly<Record<Parameter, Local>>;
  readonly #at: Record<"row" | "strip" | "state" | "strips" | "left" | "first" | "source" | "tileRow", Local>;
  /** Queries of a strip; bytes of a strip's row, and of a query's. */
  readonly #queries: number;
  readonly #pitch: number;
  readonly #rowBytes: number;
  /** Bytes of a strip's state and where its parts are: queries [dim][strip], output [dim][strip], statistics [2][strip]. */
  readonly #stateBytes: number;
  readonly #outputAt: number;
  readonly #statisticsAt: number;
  #scratchBytes = 0;
  readonly #scores: number;
  readonly #states: number;
  readonly #stage: Readonly<Record<"rows" | "residual" | "rho" | "lse" | "keys", number>>;

  constructor(settings: KernelSettings, panels: Panels, results: Results) {
    [this.#settings, this.#panels, this.#results] = [settings, panels, results];
    const { dim, strip } = settings;
    this.#queries = strip.vectors * 4;
    this.#pitch = stripBytes(strip);
    this.#rowBytes = dim * FLOAT;
    this.#outputAt = dim * this.#pitch;
    this.#statisticsAt = 2 * this.#outputAt;
    this.#stateBytes = this.#statisticsAt + 2 * this.#pitch;
    // Blocks of rows may begin before the panel's first key and end behind its last one.
    this.#scores = this.#take((panels.panelKeys + 2 * strip.rows + 4) * this.#pitch) +
      strip.rows * this.#pitch;
    this.#states = this.#take(panels.tileQueries / this.#queries * this.#stateBytes);
    const rows = this.#queries * this.#rowBytes;
    this.#stage = {
      rows: this.#take(rows),
      residual: this.#take(rows),
      rho: this.#take(this.#pitch),
      lse: this.#take(this.#pitch),
      keys: this.#take(strip.rows * this.#rowBytes),
    };
    const types = KERNEL_PARAMETERS.map((name) => name === "scale" ? "f32" : "i32");
    this.#run = this.#module.function("run", types);
    this.#parameter = Object.fromEntries(
      KERNEL_PARAMETERS.map((name, index) => [name, this.#run.params[index]!]),
    ) as Record<Parameter, Local>;
    this.#at = variables(
      this.#run,
      "i32",
      "row",
      "strip",
      "state",
      "strips",
      "left",
      "first",
      "source",
      "tileRow",
    );
  }

  kernel(pages: number): AttentionKernel {
    const { queries } = this.#parameter;
    const { row, tileRow, strips } = this.#at;
    const { tileQueries } = this.#panels;
    const perStrip = this.#queries;
    this.#run.add(
      this.#fewKeys(),
      set(tileRow, 0),
      countUp(
        row,
        0,
        queries,
        tileQueries,
        sequence(
          set(strips, smaller(i32.sub(queries, row), tileQueries)),
          set(strips, i32.divU(i32.add(strips, perStrip - 1), perStrip)),
          this.#eachStrip(this.#begin()),
          this.#panels.tileKeys === null ? this.#allPanels() : this.#listedPanels(this.#panels.tileKeys),
          this.#eachStrip(this.#end()),
          set(tileRow, i32.add(tileRow, 1)),
        ),
      ),
    );
    return { bytes: this.#module.bytes(pages), scratchBytes: this.#scratchBytes };
  }

  /** An offset in the scratch. */
  #take(bytes: number): number {
    const offset = this.#scratchBytes;
    this.#scratchBytes += Math.ceil(bytes / 64) * 64;
    return offset;
  }

  #scratch(offset: number): Code {
    return i32.add(this.#parameter.scratch, offset);
  }

  /** Fewer keys than a block of rows: a copy with zeros behind them. */
  #fewKeys(): Code {
    const { k, keys } = this.#parameter;
    const block = this.#settings.strip.rows;
    const copy = this.#scratch(this.#stage.keys);
    return when(
      i32.ltU(keys, block),
      sequence(
        memory.fill(copy, 0, block * this.#rowBytes),
        memory.copy(copy, k, i32.mul(keys, this.#rowBytes)),
        set(k, copy),
      ),
    );
  }

  #eachStrip(body: Code): Code {
    const { strip, strips, state } = this.#at;
    return sequence(
      set(state, this.#scratch(this.#states)),
      countUp(strip, 0, strips, 1, sequence(body, set(state, i32.add(state, this.#stateBytes)))),
    );
  }

  /** The first query of a strip, and how many from there on. */
  #locate(): Code {
    const { first, left, row, strip } = this.#at;
    return sequence(
      set(first, i32.add(row, i32.mul(strip, this.#queries))),
      set(left, i32.sub(this.#parameter.queries, first)),
    );
  }

  #begin(): Code {
    const { first, left, source, state } = this.#at;
    const { q, scale } = this.#parameter;
    const pack = packStrip(this.#module, this.#settings);
    const start = startSoftmax(this.#module, this.#settings);
    const stage = this.#scratch(this.#stage.rows);
    return sequence(
      this.#locate(),
      set(source, i32.add(q, i32.mul(first, this.#rowBytes))),
      when(
        i32.ltU(left, this.#queries),
        sequence(
          memory.fill(stage, 0, this.#queries * this.#rowBytes),
          memory.copy(stage, source, i32.mul(left, this.#rowBytes)),
          set(source, stage),
        ),
      ),
      call(pack.index, source, state, scale),
      memory.fill(i32.add(state, this.#outputAt), 0, this.#outputAt),
      call(start.index, i32.add(state, this.#statisticsAt)),
    );
  }

  #end(): Code {
    const { first, left, state } = this.#at;
    const { output, lse, rho, residual } = this.#parameter;
    const finish = finishStrip(this.#module, this.#settings, this.#results);
    const rows = (address: Local) => i32.add(address, i32.mul(first, this.#rowBytes));
    const numbers = (address: Local) => i32.add(address, i32.mul(first, FLOAT));
    const finished = (...places: readonly Code[]) =>
      call(finish.index, i32.add(state, this.#outputAt), i32.add(state, this.#statisticsAt), ...places);
    const stage = {
      output: this.#scratch(this.#stage.rows),
      lse: this.#scratch(this.#stage.lse),
      rho: this.#scratch(this.#stage.rho),
      residual: this.#scratch(this.#stage.residual),
    };
    const { lse: wantsLse, epilogue } = this.#results;
    const [rowBytes, numberBytes] = [i32.mul(left, this.#rowBytes), i32.mul(left, FLOAT)];
    return sequence(
      this.#locate(),
      when(
        i32.ltU(left, this.#queries),
        // Nothing is read or written behind the last query.
        sequence(
          ...epilogue
            ? [
              memory.copy(stage.rho, numbers(rho), numberBytes),
              memory.copy(stage.residual, rows(residual), rowBytes),
            ]
            : [],
          finished(stage.output, stage.lse, stage.rho, stage.residual),
          memory.copy(rows(output), stage.output, rowBytes),
          ...wantsLse ? [memory.copy(numbers(lse), stage.lse, numberBytes)] : [],
        ),
        finished(rows(output), numbers(lse), numbers(rho), rows(residual)),
      ),
    );
  }

  /** Dense: all keys, panel after panel. */
  #allPanels(): Code {
    const { keys } = this.#parameter;
    const { panelKeys } = this.#panels;
    const { key, count } = variables(this.#run, "i32", "key", "count");
    return countUp(
      key,
      0,
      keys,
      panelKeys,
      sequence(
        set(count, smaller(i32.sub(keys, key), panelKeys)),
        this.#eachStrip(sequence(this.#scoresOf(key, count), this.#weigh(key, count))),
      ),
    );
  }

  /** The tiles of a row of the list: panels are runs of tiles side by side. */
  #listedPanels(tileKeys: number): Code {
    const { starts, columns } = this.#parameter;
    const { tile, lastTile, panelTile, column, firstColumn } = variables(
      this.#run,
      "i32",
      "tile",
      "lastTile",
      "panelTile",
      "column",
      "firstColumn",
    );
    const start = i32.add(starts, i32.shl(this.#at.tileRow, 2));
    const columnOf = (at: Local) => word(columns, at);
    const follows = i32.eq(columnOf(tile), column);
    const fits = i32.ltS(i32.sub(column, firstColumn), this.#panels.panelKeys / tileKeys);
    return sequence(
      set(tile, i32.load(start)),
      set(lastTile, i32.load(start, FLOAT)),
      when(
        i32.ltS(tile, lastTile),
        doWhile(
          sequence(
            set(panelTile, tile),
            set(column, tee(firstColumn, columnOf(tile))),
            doWhile(
              sequence(set(tile, i32.add(tile, 1)), set(column, i32.add(column, 1))),
              choose("i32", i32.ltS(tile, lastTile), i32.and(follows, fits), 0),
            ),
            this.#eachStrip(this.#listedPanel(tileKeys, panelTile, tile, firstColumn)),
          ),
          i32.ltS(tile, lastTile),
        ),
      ),
    );
  }

  /** A strip and a panel of listed tiles: from the first key that one of its queries sees to the last one. */
  #listedPanel(tileKeys: number, panelTile: Local, endTile: Local, firstColumn: Local): Code {
    const { edges, patterns, keys } = this.#parameter;
    const { tile, edge, pattern, bits, offset, from, to, key, count, low, high } = variables(
      this.#run,
      "i32",
      "tile",
      "edge",
      "pattern",
      "bits",
      "offset",
      "from",
      "to",
      "key",
      "count",
      "low",
      "high",
    );
    const mask = maskScores(this.#module, this.#settings);
    const patternBytes = this.#panels.tileQueries * FLOAT;
    const eachTile = (body: Code) =>
      sequence(
        set(offset, 0),
        countUp(
          tile,
          panelTile,
          endTile,
          1,
          sequence(set(edge, word(edges, tile)), body, set(offset, i32.add(offset, tileKeys))),
        ),
      );
    const locatePattern = set(
      pattern,
      i32.add(
        i32.add(patterns, i32.mul(edge, patternBytes)),
        i32.mul(this.#at.strip, this.#pitch),
      ),
    );
    const words = (combine: typeof i32.or) =>
      Array.from({ length: this.#queries }, (_, index): Code => i32.load(pattern, index * FLOAT))
        .reduce((a, b) => combine(a, b));
    const scores = this.#scratch(this.#scores);
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
          this.#scoresOf(key, count),
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
                  i32.add(scores, i32.mul(i32.sub(offset, from), this.#pitch)),
                  pattern,
                  low,
                  high,
                ),
              ),
            ),
          )),
          this.#weigh(key, count),
        ),
      ),
    );
  }

  #scoreProduct: FunctionBuilder | null = null;
  #softmaxPart: FunctionBuilder | null = null;
  #outputProduct: FunctionBuilder | null = null;

  /** Scores of the current strip with `count` keys from `key` on. */
  #scoresOf(key: Local, count: Local): Code {
    this.#scoreProduct ??= scoreProduct(this.#module, this.#settings);
    const { index } = this.#scoreProduct;
    const { k, keys } = this.#parameter;
    const { state } = this.#at;
    const { blocks, all, last } = variables(this.#run, "i32", "blocks", "all", "last");
    const block = this.#settings.strip.rows;
    const scores = this.#scratch(this.#scores);
    const row = (at: Local) => i32.add(k, i32.mul(at, this.#rowBytes));
    return sequence(
      set(all, choose("i32", i32.ltU(keys, block), block, keys)),
      set(blocks, i32.divU(i32.add(count, block - 1), block)),
      when(
        i32.gtS(i32.add(key, i32.mul(blocks, block)), all),
        // The last block would end behind the last key: it begins earlier.
        sequence(
          set(blocks, i32.sub(blocks, 1)),
          set(last, i32.sub(all, block)),
          call(
            index,
            row(last),
            state,
            i32.add(scores, i32.mul(i32.sub(last, key), this.#pitch)),
            1,
          ),
        ),
      ),
      when(blocks, call(index, row(key), state, scores, blocks)),
    );
  }

  /** Weights of the keys, and their values' part of the output. */
  #weigh(key: Local, count: Local): Code {
    this.#softmaxPart ??= softmaxPart(this.#module, this.#settings);
    this.#outputProduct ??= outputProduct(this.#module, this.#settings);
    const { state } = this.#at;
    const scores = this.#scratch(this.#scores);
    const output = i32.add(state, this.#outputAt);
    return sequence(
      call(this.#softmaxPart.index, scores, count, i32.add(state, this.#statisticsAt), output),
      call(
        this.#outputProduct.index,
        i32.add(this.#parameter.v, i32.mul(key, this.#rowBytes)),
        scores,
        output,
        count,
      ),
    );
  }
}

function smaller(a: Operand, b: Operand): Code {
  return choose("i32", i32.ltS(a, b), a, b);
}

/** The integer number `at` of an array. */
function word(array: Local, at: Local): Code {
  return i32.load(i32.add(array, i32.shl(at, 2)));
}
