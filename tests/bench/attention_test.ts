import assert from "node:assert/strict";
import { keptElements as expected } from "../../bench/attention.ts";
import { band, frameBand, keptElements } from "../../lib/attention/mod.ts";

Deno.test("elements that count as work are those that the masks keep", () => {
  assert.equal(expected({ kind: "band", half: 7 }, 100), keptElements(band(100, 7)));
  for (const order of ["frame-major", "token-major"] as const) {
    const shape = { frames: 3, frameTokens: 20, text: 5, half: 4 };
    assert.equal(expected({ kind: "frames", order, ...shape }, 65), keptElements(frameBand(shape)));
  }
});
