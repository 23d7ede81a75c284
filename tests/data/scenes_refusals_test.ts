import assert from "node:assert/strict";
import {
  captionTables,
  drawMovingScene,
  drawScene,
  findSceneObjects,
  movingSceneVocabulary,
  parseMovingCaption,
  parseSceneCaption,
  readCaptionVocabulary,
  renderScene,
  sceneNoise,
  type SceneObject,
  sceneVocabulary,
  scoreMovingScene,
  scoreScene,
  tokenizeCaption,
} from "../../lib/data/mod.ts";

Deno.test("drawScene: refuses seeds outside of 32 bits", () => {
  for (const seed of [-1, 2 ** 32, 0.5, NaN]) {
    const expected = {
      name: "RangeError",
      message: /'seed' must be an integer from 0 to 2\^32 - 1: current seed is/,
    };
    assert.throws(() => drawScene(seed), expected);
    assert.throws(() => drawMovingScene(seed), expected);
    assert.throws(() => sceneNoise(seed), expected);
  }
  assert.throws(() => sceneNoise(0, -1), { name: "RangeError", message: /'count' .* current count is -1/ });
});

Deno.test("renderScene: draws hand-written scenes, refuses what it cannot draw", () => {
  const flat = (base: number) => ({ base, slopeX: 0, slopeY: 0 });
  const disc: SceneObject = { shape: "circle", colour: "red", x: 16, y: 8, radius: 4, rgb: [1, 0, 0] };
  const draw = (change: Partial<SceneObject>) =>
    renderScene({
      caption: "",
      objects: [{ ...disc, ...change }],
      background: [flat(0.2), flat(0.4), flat(2)],
    });
  const pixels = draw({});
  const at = (y: number, x: number) => [...pixels.subarray((y * 32 + x) * 3, (y * 32 + x) * 3 + 3)];
  assert.deepEqual(at(8, 16), [255, 0, 0]);
  assert.deepEqual(
    at(8, 12),
    [153, 51, 255],
    "the edge lies through the pixel; beyond 1 is 1, after blending",
  );
  assert.deepEqual(at(20, 16), [51, 102, 255]);
  assert.throws(() => draw({ shape: "star" as "ring" }), {
    name: "RangeError",
    message: /'shape' must be one of circle, square, triangle, ring: current shape is star/,
  });
  assert.throws(() => draw({ radius: NaN }), { name: "RangeError", message: /must be finite: .* NaN/ });
  assert.throws(() => draw({ rgb: [1, 0] as unknown as [number, number, number] }), { name: "RangeError" });
});

Deno.test("scores: refuse pixels of another size and captions of another language", () => {
  assert.throws(() => scoreScene(new Uint8Array(5), "two red rings"), {
    name: "TypeError",
    message: /'pixels' must be \[32, 32, 3\], 3072 numbers: current pixels are 5/,
  });
  assert.throws(() => scoreMovingScene(new Uint8Array(3072), "red circle up"), {
    name: "TypeError",
    message: /'pixels' must be \[8, 16, 16, 3\]/,
  });
  const strange = [
    "",
    "red",
    "two red ring",
    "large red ring",
    "red ring left blue ring",
    "large red ring top left now",
    "large teal ring top",
  ];
  for (const caption of strange) {
    assert.throws(() => parseSceneCaption(caption), { name: "SyntaxError", message: /current caption is "/ });
  }
  for (
    const caption of [
      "",
      "red ring up",
      "red circle",
      "red circle up blue",
      "red circle up ".repeat(3).trim(),
    ]
  ) {
    assert.throws(() => parseMovingCaption(caption), {
      name: "SyntaxError",
      message: /current caption is "/,
    });
  }
});

Deno.test("scores: pictures without anything, or of a run that diverged, score nothing", () => {
  const nothing = { count: 0, colour: 0, shape: 0, place: 0, size: 0, all: 0 };
  for (const value of [0.5, NaN, Infinity]) {
    const pixels = new Float32Array(3072).fill(value);
    assert.deepEqual(findSceneObjects(pixels), []);
    assert.deepEqual(scoreScene(pixels, "large red ring top left"), nothing);
    assert.deepEqual(scoreMovingScene(new Float32Array(6144).fill(value), "red circle up"), {
      colour: 0,
      shape: 0,
      motion: 0,
      consistent: 0,
      all: 0,
      subject: 0,
    });
  }
});

Deno.test("tokenizeCaption: refuses unknown words and too many, takes any white space", () => {
  assert.deepEqual(
    tokenizeCaption("  red circle\n left  of blue square ", sceneVocabulary),
    tokenizeCaption("red circle left blue square", sceneVocabulary),
  );
  assert.throws(() => tokenizeCaption("red dog", movingSceneVocabulary), {
    name: "RangeError",
    message: /must be one of red, green, .*, still: current word is "dog"/,
  });
  assert.throws(() => tokenizeCaption("red of", movingSceneVocabulary), { message: /current word is "of"/ });
  assert.throws(() => tokenizeCaption("red ".repeat(9), movingSceneVocabulary), {
    name: "RangeError",
    message: /at most 8 words: current caption has 9/,
  });
});

Deno.test("readCaptionVocabulary: refuses what is no vocabulary", () => {
  const good = { tokens: ["<pad>", "<null>", "red"], pad: 0, null: 1, max_tokens: 4 };
  assert.deepEqual(readCaptionVocabulary(JSON.stringify(good)), {
    tokens: good.tokens,
    pad: 0,
    empty: 1,
    slots: 4,
    dropped: [],
  });
  const bad: [unknown, RegExp][] = [
    [null, /'tokens' .* current value is missing/],
    [{ ...good, tokens: "red" }, /'tokens'/],
    [{ ...good, tokens: ["a", "a"] }, /different words/],
    [{ ...good, tokens: ["a", "b c"] }, /'tokens'/],
    [{ ...good, pad: 3 }, /'pad' must be an integer from 0 to 2: current value is 3/],
    [{ ...good, null: "1" }, /'null' .* current value is "1"/],
    [{ ...good, max_tokens: 0 }, /'max_tokens' must be at least 1/],
    [{ ...good, max_tokens: 1e9 }, /'max_tokens'/],
    [{ ...good, dropped_words: [1] }, /'dropped_words'/],
  ];
  for (const [value, message] of bad) {
    assert.throws(() => readCaptionVocabulary(JSON.stringify(value)), { name: "SyntaxError", message });
  }
  assert.throws(() => readCaptionVocabulary("{"), { name: "SyntaxError", message: /must be JSON/ });
});

Deno.test("captionTables: refuses tables that do not fit the vocabulary", () => {
  const table = (rows: number, width: number) => ({
    dtype: "F32" as const,
    shape: [rows, width],
    data: new Float32Array(rows * width),
  });
  const tables = (tokens = table(13, 2), positions = table(8, 2)) =>
    new Map([["token_embedding", tokens], ["position_embedding", positions]]);
  assert.equal(captionTables(tables(), movingSceneVocabulary).width, 2);
  const refuse = (given: Parameters<typeof captionTables>[0], name: string, message: RegExp) =>
    assert.throws(() => captionTables(given, movingSceneVocabulary), { name, message });
  refuse(
    tables(table(12, 2)),
    "RangeError",
    /'token_embedding' must be \[13, width\]: current shape is \[12, 2\]/,
  );
  refuse(
    tables(table(13, 2), table(8, 3)),
    "RangeError",
    /'position_embedding' must be \[8, 2\]: .* \[8, 3\]/,
  );
  refuse(
    new Map([["other", table(1, 1)]]),
    "RangeError",
    /must have 'token_embedding': current tensors are other/,
  );
  const half = { dtype: "F16" as const, shape: [13, 2], data: new Uint16Array(26) };
  refuse(new Map([["token_embedding", half]]), "TypeError", /must be F32: current dtype is F16/);
});
