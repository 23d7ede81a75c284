/** Captions as numbers: vocabularies, token ids and the embedding tables that stand in for a text encoder. */

import type { SafetensorsTensor } from "../tensor/mod.ts";
import { colourNames, pluralNames, shapeNames, sizeNames } from "./scenes.ts";
import { motionNames, movingColourNames, movingShapeNames } from "./scenes_moving.ts";

/** The words that a model's captions are made of. A token's id is its place in `tokens`. */
export interface CaptionVocabulary {
  readonly tokens: readonly string[];
  /** The id that fills slots after the caption. */
  readonly pad: number;
  /** The id that is the empty caption, the unconditional side of guidance. */
  readonly empty: number;
  /** Slots of a caption. */
  readonly slots: number;
  /** Words without a token that captions may contain. */
  readonly dropped: readonly string[];
}

/** The vocabulary of still scenes: 27 tokens, 16 slots. */
export const sceneVocabulary: CaptionVocabulary = {
  tokens: [
    ...["<pad>", "<null>", ...colourNames, ...shapeNames, ...pluralNames, ...sizeNames],
    ...["left", "right", "top", "bottom", "center", "above", "below", "two", "three"],
  ],
  pad: 0,
  empty: 1,
  slots: 16,
  dropped: ["of"],
};

/** The vocabulary of moving scenes: 13 tokens, 8 slots. */
export const movingSceneVocabulary: CaptionVocabulary = {
  tokens: ["<pad>", "<null>", ...movingColourNames, ...movingShapeNames, ...motionNames],
  pad: 0,
  empty: 1,
  slots: 8,
  dropped: [],
};

/**
 * The vocabulary in the text of a checkpoint's vocab.json: `tokens` (or `vocab`), `pad`, `null`, `max_tokens` and, if
 * any, `dropped_words`.
 *
 * @throws {SyntaxError} The text is not JSON, or not a vocabulary.
 */
export function readCaptionVocabulary(json: string): CaptionVocabulary {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw malformed("the text must be JSON", (error as Error).message, error);
  }
  const fields = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const tokens = fields["tokens"] ?? fields["vocab"];
  if (!isWords(tokens) || tokens.length < 2 || new Set(tokens).size < tokens.length) {
    throw malformed("'tokens' must be a list of two or more different words", quote(tokens));
  }
  const dropped = fields["dropped_words"] ?? [];
  if (!isWords(dropped)) throw malformed("'dropped_words' must be a list of words", quote(dropped));
  const integer = (name: string, most: number) => {
    const given = fields[name];
    if (Number.isInteger(given) && (given as number) >= 0 && (given as number) <= most) {
      return given as number;
    }
    throw malformed(`'${name}' must be an integer from 0 to ${most}`, quote(given));
  };
  const last = tokens.length - 1;
  const slots = integer("max_tokens", 4096);
  if (slots === 0) throw malformed("'max_tokens' must be at least 1", "0");
  return { tokens, pad: integer("pad", last), empty: integer("null", last), slots, dropped };
}

/** A caption's token ids, padded, and how many of them are not padding. */
export interface CaptionTokens {
  /** Token ids, [slots]. */
  readonly ids: Int32Array<ArrayBuffer>;
  readonly count: number;
}

/**
 * A caption's words as token ids; the empty caption is the one token `<null>`.
 *
 * ```ts
 * import { sceneVocabulary, tokenizeCaption } from "@normlab/normlab/data";
 *
 * const { ids, count } = tokenizeCaption("red circle left of blue square", sceneVocabulary);
 * console.log(ids.subarray(0, count)); // 2, 8, 18, 4, 9
 * ```
 *
 * @throws {RangeError} A word is not in the vocabulary, or there are more words than slots.
 */
export function tokenizeCaption(caption: string, vocabulary: CaptionVocabulary): CaptionTokens {
  const { tokens, pad, empty, slots, dropped } = vocabulary;
  const words = caption.split(/\s+/).filter((word) => word !== "" && !dropped.includes(word));
  if (words.length > slots) {
    throw new RangeError(
      `Cannot tokenize a caption as it must have at most ${slots} words: current caption has ${words.length}`,
    );
  }
  const ids = new Int32Array(slots).fill(pad);
  words.forEach((word, slot) => {
    const id = tokens.indexOf(word);
    if (id < 0) {
      const known = tokens.filter((_, id) => id !== pad && id !== empty).join(", ");
      throw new RangeError(
        `Cannot tokenize a caption as every word must be one of ${known}: current word is ${quote(word)}`,
      );
    }
    ids[slot] = id;
  });
  if (words.length === 0) ids[0] = empty;
  return { ids, count: Math.max(words.length, 1) };
}

/** What each token and each slot add to the text that a model reads. */
export interface CaptionTables {
  /** One row per token, [tokens, width]. */
  readonly tokens: Float32Array;
  /** One row per slot, [slots, width]. */
  readonly positions: Float32Array;
  readonly width: number;
}

/**
 * The tables of a checkpoint's text_embedding.safetensors: `token_embedding` [tokens, width] and `position_embedding`
 * [slots, width], float32.
 *
 * @throws {RangeError} A table is missing, or its shape does not fit the vocabulary.
 * @throws {TypeError} A table is not float32.
 */
export function captionTables(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  vocabulary: CaptionVocabulary,
): CaptionTables {
  const table = (name: string, rows: number) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      throw new RangeError(
        `Cannot embed captions as the file must have '${name}': current tensors are ${
          [...tensors.keys()].join(", ")
        }`,
      );
    }
    if (tensor.dtype !== "F32") {
      throw new TypeError(`Cannot embed captions as '${name}' must be F32: current dtype is ${tensor.dtype}`);
    }
    if (tensor.shape.length !== 2 || tensor.shape[0] !== rows) {
      throw new RangeError(
        `Cannot embed captions as '${name}' must be [${rows}, width]: current shape is [${
          tensor.shape.join(", ")
        }]`,
      );
    }
    return { data: tensor.data, width: tensor.shape[1]! };
  };
  const tokens = table("token_embedding", vocabulary.tokens.length);
  const positions = table("position_embedding", vocabulary.slots);
  if (tokens.width !== positions.width) {
    throw new RangeError(
      `Cannot embed captions as 'position_embedding' must be [${vocabulary.slots}, ${tokens.width}]: ` +
        `current shape is [${vocabulary.slots}, ${positions.width}]`,
    );
  }
  return { tokens: tokens.data, positions: positions.data, width: tokens.width };
}

/** Captions as a model reads them. */
export interface EmbeddedCaptions {
  /** [captions, slots, width]. */
  readonly states: Float32Array<ArrayBuffer>;
  /** 1 on tokens, 0 on padding, [captions, slots]. A model without a text mask (CogVideoX) does not look at it. */
  readonly mask: Float32Array<ArrayBuffer>;
  readonly shape: readonly [captions: number, slots: number, width: number];
}

/**
 * Captions as the states of a text encoder: row s is tokens[id of slot s] + positions[s], padding included.
 *
 * @throws {RangeError} As {@linkcode tokenizeCaption}.
 */
export function embedCaptions(
  captions: readonly string[],
  vocabulary: CaptionVocabulary,
  { tokens, positions, width }: CaptionTables,
): EmbeddedCaptions {
  const { slots } = vocabulary;
  const states = new Float32Array(captions.length * slots * width);
  const mask = new Float32Array(captions.length * slots);
  captions.forEach((caption, i) => {
    const { ids, count } = tokenizeCaption(caption, vocabulary);
    mask.fill(1, i * slots, i * slots + count);
    for (let slot = 0; slot < slots; slot++) {
      const to = (i * slots + slot) * width;
      for (let j = 0; j < width; j++) {
        states[to + j] = tokens[ids[slot]! * width + j]! + positions[slot * width + j]!;
      }
    }
  });
  return { states, mask, shape: [captions.length, slots, width] };
}

function isWords(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((word) => typeof word === "string" && /^\S+$/.test(word));
}

function malformed(rule: string, current: string, cause?: unknown): SyntaxError {
  return new SyntaxError(`Cannot read a vocabulary as ${rule}: current value is ${current}`, { cause });
}

function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
