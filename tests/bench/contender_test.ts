import assert from "node:assert/strict";
import process from "node:process";
import { alternate, Contender, geometricMean, median, problems, quantile } from "../../bench/_contender.ts";

const protocol = new URL("../../bench/_contender.ts", import.meta.url).href;

/** A process that answers `{ n }` with n times, a line of noise before each, and refuses negative n. */
function child(name: string): Contender {
  const script = `
    import { serve } from "${protocol}";
    await serve(({ n }) => {
      console.log("noise");
      if (n < 0) throw new RangeError("n is negative");
      return { milliseconds: Array(n).fill(n), version: process.env.FLAVOUR };
    });`;
  return new Contender({ name, command: process.execPath, args: ["eval", script], env: { FLAVOUR: name } });
}

Deno.test("contenders answer requests in turn, past lines that are no answers", async () => {
  const contenders = [child("a"), child("b")];
  try {
    const answers = await alternate(contenders, { n: 2 }, 3);
    assert.deepEqual([...answers], [
      ["a", { milliseconds: [2, 2, 2, 2, 2, 2], version: "a" }],
      ["b", { milliseconds: [2, 2, 2, 2, 2, 2], version: "b" }],
    ]);
  } finally {
    for (const contender of contenders) await contender.close();
  }
});

Deno.test("a contender that fails is reported and left out", async () => {
  const contender = child("a");
  try {
    assert.equal((await alternate([contender], { n: -1 }, 2)).size, 0);
    assert.match(problems.pop()!, /a: n is negative/);
    // It goes on to answer other requests.
    assert.deepEqual((await contender.ask<{ milliseconds: number[] }>({ n: 1 })).milliseconds, [1]);
  } finally {
    await contender.close();
  }
});

Deno.test("a process that ends without an answer is an error", async () => {
  const contender = new Contender({ name: "mute", command: process.execPath, args: ["eval", "0"] });
  await assert.rejects(contender.ask({}), /mute as its process must answer: it ended/);
});

Deno.test("medians, quantiles and geometric means", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(quantile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.9), 10);
  // exp of a mean of logarithms: exact up to the rounding of exp and log.
  assert.ok(Math.abs(geometricMean([1, 4, 16]) - 4) < 1e-12);
});
