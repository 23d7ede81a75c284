/** The group `rivals`: what other methods of sparse attention select, against their official code or a second computation of it. */
import * as tf from "@tensorflow/tfjs";
import {
  attend,
  type Implementation,
  minferenceBlocks,
  poolMean,
  spargeAttention,
  verticalSlash,
  xAttention,
} from "../../lib/attention/mod.ts";
import { cut, gapOf, type Inputs, keptColumns, Rival, TOLERANCE } from "./_rival.ts";
import { checkHeadChoice, checkRadial, checkSlidingTiles, checkVideoGenMasks } from "./_rivals_video.ts";
import type { Comparison, Evaluation } from "./report.ts";

/**
 * Compares every file of the folder but the one that needs a model. Where a selection attends: compiled by the kit's kernel and by tiles,
 * else as the specification.
 */
export async function checkRivals(
  folder: string,
  { evaluation }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const implementations: Implementation[] = evaluation === "compiled" ? ["auto", "tiles"] : ["reference"];
  const rival = (name: string) => new Rival(folder, name);
  const rivals = [
    await checkMinference(rival("minference"), implementations),
    await checkVerticalSlash(rival("minference")),
    await checkVideoGenMasks(rival("svg")),
    await checkHeadChoice(rival("svg"), implementations),
    await checkSparge(rival("spargeattn")),
    await checkXAttention(rival("xattention")),
    await checkRadial(rival("radial")),
    await checkSlidingTiles(rival("sta")),
  ];
  return {
    comparisons: rivals.flatMap(({ comparisons }) => comparisons),
    skipped: [
      "ditfastattn_plan: its plan comes of runs of a model, checked in the group models",
      ...new Set(rivals.flatMap(({ skipped }) => skipped)),
    ],
  };
}

/** Top blocks by both poolings, attention to them, and the causal form. */
async function checkMinference(rival: Rival, implementations: readonly Implementation[]): Promise<Rival> {
  const { selection_gaps: gaps } = await rival.json<{ selection_gaps: Record<string, number> }>();
  await rival.load();
  for (const [gap, margin] of Object.entries(gaps)) {
    const [, key, tokens, pooling, top] = /^(n(\d+)\.(\w+))\.top(\d)\.min_gap$/.exec(gap)!;
    const [q, k, v] = ["q", "k", "v"].map((input) => rival.input(input, Number(tokens))) as Inputs;
    const settings = { top: Number(top), pooling: pooling as "true_mean" | "zero_padded_mean" };
    const { mask, blocks, scores } = await minferenceBlocks(q, k, settings);
    const error = rival.tensor(`${key}.scores`, scores, TOLERANCE);
    const columns = Math.ceil(Number(tokens) / blocks.blockKeys);
    const name = `${key}.top${top}`;
    rival.selected(name, error, margin, () => rival.tensor(name, keptColumns(blocks.kept, columns)));
    for (const implementation of rival.has(`${name}.O`) ? implementations : []) {
      const { output, lse } = attend(q, k, v, { mask, lse: true, implementation });
      rival.tensor(`${name}.O`, await output.data(), TOLERANCE);
      rival.tensor(`${name}.LSE`, await lse!.data(), TOLERANCE);
      tf.dispose([output, lse!]);
    }
    tf.dispose([q, k, v]);
  }
  // Causal: the first two rows of blocks have fewer than three to choose from; the reference holds others there.
  const [q, k] = [rival.input("q"), rival.input("k")];
  const { blocks, scores } = await minferenceBlocks(q, k, { top: 3, causal: true });
  const rows = Math.sqrt(scores.length / blocks.heads);
  const reference = rival.reference("n512.causal_official.top3").data;
  for (let head = 0; head < blocks.heads; head++) {
    const [from, to] = [head * rows + 2, (head + 1) * rows];
    const own = keptColumns(blocks.kept.subarray(from * rows, to * rows), rows);
    rival.numbers(`causal head ${head}/top3`, own, reference.subarray(from * 3, to * 3));
  }
  tf.dispose([q, k]);
  return rival;
}

/** Official causal form, with what its kernel makes of columns and diagonals. */
async function checkVerticalSlash(rival: Rival): Promise<Rival> {
  interface Conversion {
    block_count: number[];
    block_offset: number[][];
    column_count: number[];
    column_index: number[][];
  }
  const meta = await rival.json<{
    vertical_size: number;
    slash_size: number;
    last_q: number;
    vertical_slash_conversion_64x64: Record<string, Conversion>;
  }>();
  await rival.load();
  const [q, k] = [rival.input("q"), rival.input("k")];
  const [vertical, slash] = [meta.vertical_size, meta.slash_size];
  const settings = { vertical, slash, sampled: meta.last_q, causal: true };
  const { heads, converted } = await verticalSlash(q, k, settings);
  for (const [index, head] of heads.entries()) {
    const name = `vs.head${index}`;
    // The first columns and the nearest diagonals are kept whatever their scores: the rest has its own threshold.
    const sure = ([
      ["vertical_scores", head.columnScores, "vertical_index_sorted", head.columns, vertical, 30],
      ["slash_scores_by_distance", head.distanceScores, "slash_distance_desc", head.distances, slash, 100],
    ] as const).map(([kind, scores, selection, own, count, forced]) => {
      const error = rival.tensor(`${name}.${kind}`, scores, TOLERANCE);
      const rest = rival.reference(`${name}.${kind}`).data.subarray(forced);
      const margin = gapOf(rest, rest.length, count - forced);
      return rival.selected(
        `${name}.${selection}`,
        error,
        margin,
        () => rival.tensor(`${name}.${selection}`, own),
      );
    });
    if (sure.includes(false)) continue;
    const conversion = meta.vertical_slash_conversion_64x64[`head${index}`]!;
    const own = converted[index]!;
    for (
      const [kind, lists, counts, entries] of [
        ["blocks", own.blocks, conversion.block_count, conversion.block_offset],
        ["columns", own.columns, conversion.column_count, conversion.column_index],
      ] as const
    ) {
      const reference = entries.flatMap((list, row) => [counts[row]!, ...list]);
      rival.numbers(`${name}/${kind}`, lists.flatMap((list) => [list.length, ...list]), reference);
    }
  }
  tf.dispose([q, k]);
  return rival;
}

/** Pooled tokens, self-similarities, probabilities, and maps by both rules and both treatments of partial blocks. */
async function checkSparge(rival: Rival): Promise<Rival> {
  const { cases } = await rival.json<{
    cases: {
      key: string;
      BLKQ: number;
      BLKK: number;
      simthreshd1: number;
      min_margin_to_simthreshold: number;
      min_margin_to_tau: Record<string, number>;
      modes: ["cdf" | "topk", number][];
    }[];
  }>();
  await rival.load();
  for (
    const { key, modes, simthreshd1: similarity, BLKQ: blockQueries, BLKK: blockKeys, ...margins } of cases
  ) {
    const [q, k] = [rival.input(`${key}.q`), rival.input(`${key}.k`)];
    for (const [name, x, block] of [["pooled_q", q, blockQueries], ["pooled_k", k, blockKeys]] as const) {
      const pooled = poolMean(x, block);
      rival.tensor(`${key}.${name}`, await pooled.data(), TOLERANCE);
      pooled.dispose();
    }
    const parts = { ignore_padding: "ignore_padding", partial_block_unsafe: "unsafe" } as const;
    for (const [part, partialBlocks] of Object.entries(parts)) {
      if (!rival.has(`${key}.${part}.probs`)) continue;
      const maps = modes.flatMap(([mode, share]) =>
        (mode === "cdf" ? ["official", "inclusive"] as const : ["official"] as const).map((rule) => ({
          name: `${part}.${mode}${share}`,
          map: `${key}.${part}.${mode}${share}.map${rule === "official" ? "" : "_inclusive"}`,
          share: mode === "cdf" ? { mass: share } : { keep: share },
          rule,
        }))
      );
      for (const { name, map, share, rule } of maps) {
        const settings = { ...share, blockQueries, blockKeys, similarity, rule, partialBlocks };
        const { blocks, scores, similarQueries, similarKeys } = await spargeAttention(q, k, settings);
        const similar = Math.max(
          rival.tensor(`${key}.sim_q`, similarQueries, TOLERANCE),
          rival.tensor(`${key}.sim_k`, similarKeys, TOLERANCE),
        );
        const error = rival.tensor(`${key}.${part}.probs`, scores, TOLERANCE);
        const { data, shape } = rival.reference(`${key}.${part}.probs`);
        const columns = shape.at(-1)!;
        // Shares of mass add up to a row's errors.
        const [off, margin] = "mass" in share
          ? [error * columns, margins.min_margin_to_tau[name]!]
          : [error, gapOf(data, columns, Math.floor(share.keep * columns))];
        rival.selected(map, similar, margins.min_margin_to_simthreshold, () => {
          rival.selected(map, off, margin, () => rival.tensor(map, blocks.kept));
        });
      }
    }
    tf.dispose([q, k]);
  }
  return rival;
}

/** Sums of anti-diagonals, and blocks with and without the official filler. */
async function checkXAttention(rival: Rival): Promise<Rival> {
  const { cases, block, H: heads } = await rival.json<{
    block: number;
    H: number;
    cases: {
      key: string;
      N: number;
      stride: number;
      threshold: number;
      chunk_size: number;
      min_relative_margin_to_threshold: number;
    }[];
  }>();
  await rival.load();
  for (const { key, N: tokens, stride, threshold: mass, chunk_size: zeroKeysTo, ...row } of cases) {
    const [q, k] = [rival.input("q", tokens), rival.input("k", tokens)];
    // Margins are those of rows of whole blocks.
    const [size, whole] = [Math.ceil(tokens / block), Math.floor(tokens / block)];
    for (const [name, filler] of [["mask_official", true], ["mask_without_block0_filler", false]] as const) {
      const { blocks, scores } = await xAttention(q, k, { mass, block, stride, filler, zeroKeysTo });
      const error = rival.tensor(`${key}.block_sums`, scores, TOLERANCE, [1, heads, size, size]);
      // A row sums to block / stride; its errors add up.
      const off = error * (zeroKeysTo / block) / (block / stride);
      const shape = [1, heads, whole, size];
      rival.selected(
        `${key}.${name}`,
        off,
        row.min_relative_margin_to_threshold,
        () => rival.tensor(`${key}.${name}`, cut(blocks.kept, [1, heads, size, size], shape), 0, shape),
      );
    }
    tf.dispose([q, k]);
  }
  return rival;
}
