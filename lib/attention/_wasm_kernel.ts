/**
 * Attention as a WebAssembly module for a head's dimension: row of tiles by row of tiles of the queries, over the keys a panel at a
 * time with the softmax carried along (Dao et al., arXiv 2205.14135), so that scores exist for a strip of queries and a panel of keys only.
 */
import {
  call,
  type Code,
  countUp,
  i32,
  type Local,
  memory,
  sequence,
  set,
  variables,
  when,
} from "../wasm/mod.ts";
import { KernelFrame, type Panels, smaller } from "./_wasm_frame.ts";
import { allPanels, listedPanels } from "./_wasm_panels.ts";
import { FLOAT, type KernelSettings } from "./_wasm_products.ts";
import { startSoftmax } from "./_wasm_softmax.ts";
import { finishStrip, packStrip, type Results } from "./_wasm_strips.ts";

/** A kernel: the module exports `run`, which takes numbers in the order of `KERNEL_PARAMETERS`. */
export interface AttentionKernel {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Bytes at `scratch` that the kernel overwrites. */
  readonly scratchBytes: number;
}

/** Makes the kernel; the memory has at least so many pages. */
export function attentionKernel(
  settings: KernelSettings,
  panels: Panels,
  results: Results,
  pages: number,
): AttentionKernel {
  const frame = new KernelFrame(settings, panels);
  const { run, row, tileRow, strips, parameter: { queries } } = frame;
  const { begin, end } = stripEnds(frame, results);
  run.add(
    fewKeys(frame),
    set(tileRow, 0),
    countUp(
      row,
      0,
      queries,
      panels.tileQueries,
      sequence(
        set(strips, smaller(i32.sub(queries, row), panels.tileQueries)),
        set(strips, i32.divU(i32.add(strips, frame.queries - 1), frame.queries)),
        frame.eachStrip(begin),
        panels.tileKeys === null ? allPanels(frame) : listedPanels(frame, panels.tileKeys),
        frame.eachStrip(end),
        set(tileRow, i32.add(tileRow, 1)),
      ),
    ),
  );
  return { bytes: frame.module.bytes(pages), scratchBytes: frame.scratchBytes };
}

/** Fewer keys than a block of rows: a copy with zeros behind them. */
function fewKeys(frame: KernelFrame): Code {
  const { k, keys } = frame.parameter;
  const bytes = frame.settings.strip.rows * frame.rowBytes;
  const copy = frame.scratch(frame.take(bytes));
  return when(
    i32.ltU(keys, frame.settings.strip.rows),
    sequence(
      memory.fill(copy, 0, bytes),
      memory.copy(copy, k, i32.mul(keys, frame.rowBytes)),
      set(k, copy),
    ),
  );
}

/** What is done for a strip before the keys and after them. Nothing is read or written behind the last query. */
function stripEnds(frame: KernelFrame, results: Results): { readonly begin: Code; readonly end: Code } {
  const { module, settings, parameter, pitch, rowBytes, state, sums, statistics } = frame;
  const { first, left, source } = variables(frame.run, "i32", "first", "left", "source");
  const [pack, start] = [packStrip(module, settings), startSoftmax(module, settings)];
  const finish = finishStrip(module, settings, results);
  const locate = sequence(
    set(first, i32.add(frame.row, i32.mul(frame.strip, frame.queries))),
    set(left, i32.sub(parameter.queries, first)),
  );
  const isPartial = i32.ltU(left, frame.queries);
  const rows = (address: Local) => i32.add(address, i32.mul(first, rowBytes));
  const numbers = (address: Local) => i32.add(address, i32.mul(first, FLOAT));
  const [leftBytes, leftNumbers] = [i32.mul(left, rowBytes), i32.mul(left, FLOAT)];
  const bytes = frame.queries * rowBytes;
  const [stage, residual, rho, lse] = [bytes, bytes, pitch, pitch].map((size) =>
    frame.scratch(frame.take(size))
  ) as [Code, Code, Code, Code];
  const copies = sequence(
    memory.copy(rho, numbers(parameter.rho), leftNumbers),
    memory.copy(residual, rows(parameter.residual), leftBytes),
  );
  const begin = sequence(
    locate,
    set(source, rows(parameter.q)),
    when(
      isPartial,
      sequence(
        memory.fill(stage, 0, bytes),
        memory.copy(stage, source, leftBytes),
        set(source, stage),
      ),
    ),
    call(pack.index, source, state, parameter.scale),
    memory.fill(sums, 0, settings.dim * pitch),
    call(start.index, statistics),
  );
  const end = sequence(
    locate,
    when(
      isPartial,
      sequence(
        results.epilogue ? copies : sequence(),
        call(finish.index, sums, statistics, stage, lse, rho, residual),
        memory.copy(rows(parameter.output), stage, leftBytes),
        results.lse ? memory.copy(numbers(parameter.lse), lse, leftNumbers) : sequence(),
      ),
      call(
        finish.index,
        sums,
        statistics,
        rows(parameter.output),
        numbers(parameter.lse),
        numbers(parameter.rho),
        rows(parameter.residual),
      ),
    ),
  );
  return { begin, end };
}
