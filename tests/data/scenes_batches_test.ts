import assert from "node:assert/strict";
import {
  drawMovingScene,
  drawScene,
  movingSceneBatches,
  movingSceneVocabulary,
  renderMovingScene,
  renderScene,
  samplePixels,
  type SceneBatch,
  sceneBatches,
  type SceneBatchOptions,
  sceneVocabulary,
  tokenizeCaption,
} from "../../lib/data/mod.ts";
import { testStream } from "./_fixtures.ts";

const options: SceneBatchOptions = { size: 3, stream: testStream("scenes"), steps: 4 };
const sources = [
  { batches: sceneBatches, draw: drawScene, vocabulary: sceneVocabulary, frames: 1, side: 32 },
  {
    batches: movingSceneBatches,
    draw: drawMovingScene,
    vocabulary: movingSceneVocabulary,
    frames: 8,
    side: 16,
  },
] as const;

Deno.test("scene batches: each scene once, in order of the seeds, as its bytes and tokens", () => {
  for (const { batches, draw, vocabulary, frames, side } of sources) {
    const made = [...batches({ ...options, captionDropout: 0 })];
    assert.deepEqual(made.map(({ seed, step }) => [seed, step]), [0, 1, 2, 3].map((i) => [1e6 + 3 * i, i]));
    for (const batch of made) {
      const { seed, ids, mask, captions, shape, pixels } = batch;
      assert.deepEqual(shape, frames === 1 ? [3, 3, 32, 32] : [3, 8, 3, 16, 16]);
      assert.equal(pixels.length, 3 * frames * 3 * side * side);
      captions.forEach((caption, i) => {
        const scene = draw(seed + i);
        assert.equal(caption, scene.caption);
        const tokens = tokenizeCaption(caption, vocabulary);
        const { slots } = vocabulary;
        assert.deepEqual(ids.subarray(i * slots, (i + 1) * slots), tokens.ids);
        assert.equal(mask.subarray(i * slots, (i + 1) * slots).reduce((a, b) => a + b), tokens.count);
      });
    }
  }
});

Deno.test("scene batches: pixels are byte / 127.5 - 1, channels first or last", () => {
  for (const { batches, frames, side } of sources) {
    const [first] = batches({ ...options, firstSeed: 7 }) as Iterable<SceneBatch>;
    const [last] = batches({ ...options, firstSeed: 7, layout: "channels-last" }) as Iterable<SceneBatch>;
    assert.deepEqual(last!.shape, frames === 1 ? [3, 32, 32, 3] : [3, 8, 16, 16, 3]);
    const bytes = [7, 8, 9].flatMap((seed) => [
      ...frames === 1 ? renderScene(drawScene(seed)) : renderMovingScene(drawMovingScene(seed)),
    ]);
    assert.deepEqual(last!.pixels, Float32Array.from(bytes, (byte) => byte / 127.5 - 1));
    for (let image = 0; image < 3 * frames; image++) {
      for (
        const [y, x, channel] of [[0, 0, 0], [3, 5, 1], [side - 1, 2, 2], [side - 1, side - 1, 2]] as const
      ) {
        const from = ((image * side + y) * side + x) * 3 + channel;
        const to = ((image * 3 + channel) * side + y) * side + x;
        assert.equal(first!.pixels[to], last!.pixels[from], `image ${image}, [${y}, ${x}, ${channel}]`);
      }
    }
  }
});

Deno.test("scene batches: the same for the same options, whatever step they begin with", () => {
  for (const { batches } of sources) {
    const whole = [...batches({ ...options, captionDropout: 0.5 })];
    const rest = [...batches({ ...options, captionDropout: 0.5, firstStep: 2, steps: 2 })];
    assert.deepEqual(rest, whole.slice(2));
    const other = [...batches({ ...options, captionDropout: 0.5, stream: testStream("other") })];
    assert.deepEqual(other.map(({ pixels }) => pixels), whole.map(({ pixels }) => pixels));
    assert.notDeepEqual(other.map(({ captions }) => captions), whole.map(({ captions }) => captions));
  }
});

Deno.test("scene batches: a dropped caption is the one token <null>; a tenth is dropped", () => {
  const dropped = (captions: readonly string[]) => captions.filter((caption) => caption === "").length;
  const [none] = movingSceneBatches({ ...options, captionDropout: 1 }) as Iterable<SceneBatch>;
  assert.deepEqual(none!.captions, ["", "", ""]);
  assert.deepEqual([...none!.ids], [1, 2, 3].flatMap(() => [1, 0, 0, 0, 0, 0, 0, 0]));
  assert.deepEqual([...none!.mask], [1, 2, 3].flatMap(() => [1, 0, 0, 0, 0, 0, 0, 0]));
  const [many] = movingSceneBatches({ ...options, size: 1000 }) as Iterable<SceneBatch>;
  // The standard deviation is sqrt(1000 * 0.1 * 0.9) = 9.5; the draws are always the same.
  assert.ok(Math.abs(dropped(many!.captions) - 100) < 30, `dropped ${dropped(many!.captions)} of 1000`);
});

Deno.test("scene batches: end where the seeds end", () => {
  const made = [...sceneBatches({ size: 2, stream: testStream("end"), firstSeed: 2 ** 32 - 5 })];
  assert.deepEqual(made.map(({ seed }) => seed), [2 ** 32 - 5, 2 ** 32 - 3]);
});

Deno.test("samplePixels: a model's samples become the pixels that they were, clipped", () => {
  for (const { batches } of sources) {
    const [batch] = batches(options) as Iterable<SceneBatch>;
    const [expected] = batches({ ...options, layout: "channels-last" }) as Iterable<SceneBatch>;
    assert.deepEqual(
      samplePixels(batch!.pixels, batch!.shape),
      expected!.pixels.map((value) => (value + 1) / 2),
    );
  }
  // Two pixels side by side: red -3 and 0, green 2 and 1, blue -1 and 0.5.
  const pixels = samplePixels(Float32Array.of(-3, 0, 2, 1, -1, 0.5), [3, 1, 2]);
  assert.deepEqual([...pixels], [0, 1, 0, 0.5, 1, 0.75]);
  assert.throws(() => samplePixels(new Float32Array(6), [2, 1, 3]), {
    name: "RangeError",
    message: /'shape' must be \[\.\., 3, height, width\] with 6 elements: current shape is \[2, 1, 3\]/,
  });
});

Deno.test("scene batches: refuse what cannot be met before the first batch", () => {
  const refused: [Partial<SceneBatchOptions>, RegExp][] = [
    [{ size: 0 }, /'size' must be an integer of at least 1: current value is 0/],
    [{ size: 1.5 }, /'size'/],
    [{ firstStep: -1 }, /'firstStep' must be an integer of at least 0: current value is -1/],
    [{ firstSeed: 2 ** 32 }, /'firstSeed' must be an integer from 0 to 4294967293/],
    [{ firstSeed: 2 ** 32 - 6, steps: 3 }, /'steps' must be an integer from 0 to 2: current value is 3/],
    [{ captionDropout: 1.1 }, /'captionDropout' must be a share from 0 to 1: current share is 1.1/],
    [{ captionDropout: NaN }, /'captionDropout'/],
  ];
  for (const [change, message] of refused) {
    assert.throws(() => sceneBatches({ ...options, ...change }), { name: "RangeError", message });
  }
});
