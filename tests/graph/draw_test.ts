import assert from "node:assert/strict";
import { draw, maxNodes, publishedLayer, validate } from "../../lib/graph/mod.ts";
import { goldenGraph, goldenGraphs } from "./_golden.ts";

const count = (svg: string, part: string) => svg.split(part).length - 1;

Deno.test("a picture shows the active graph and says what it is", () => {
  const svg = draw(publishedLayer("EvoNorm-B0").graph);
  assert.match(
    svg,
    /^<svg [^>]*role="img"[^>]*><title>x \/ max\(std\[bwh\]\(x\), v1\*x \+ std\[wh\]\(x\)\)<\/title>/,
  );
  assert.equal(count(svg, "<text"), 8);
  assert.equal(count(svg, "<polygon"), 11); // ten edges and the arrow out
  assert.match(svg, /std<tspan[^>]*>bwh<\/tspan>/);
  assert.match(svg, /v<tspan[^>]*>1<\/tspan>/);
  assert.ok(!svg.includes("NaN") && !svg.includes("undefined"));
});

Deno.test("dead nodes are drawn in grey, and only on request", () => {
  const graph = goldenGraph(goldenGraphs.graphs[0]!);
  assert.equal(count(draw(graph), "<text"), 8);
  const svg = draw(graph, { dead: true });
  assert.equal(count(svg, "<text"), 12);
  assert.equal(count(svg, 'fill="#999"'), 4);
});

/** Boxes as [left, top, right, bottom]. */
function boxes(svg: string): number[][] {
  return [...svg.matchAll(/<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/g)].map(
    (match) => {
      const [x, y, width, height] = match.slice(1).map(Number) as [number, number, number, number];
      return [x, y, x + width, y + height];
    },
  );
}

Deno.test("boxes do not overlap and stay inside the picture", () => {
  for (const golden of goldenGraphs.graphs) {
    const svg = draw(goldenGraph(golden), { dead: true });
    const [width, height] = /viewBox="0 0 (\d+) (\d+)"/.exec(svg)!.slice(1).map(Number) as [number, number];
    const placed = boxes(svg);
    placed.forEach(([left, top, right, bottom], i) => {
      assert.ok(left! >= 0 && top! >= 0 && right! <= width && bottom! <= height, `graph ${golden.id}`);
      for (const other of placed.slice(i + 1)) {
        const apart = other[0]! >= right! || other[2]! <= left! || other[1]! >= bottom! || other[3]! <= top!;
        assert.ok(apart, `graph ${golden.id}`);
      }
    });
  }
});

Deno.test("the numerator's arrow lands left of the denominator's", () => {
  const landings = (graph: Parameters<typeof draw>[0]) =>
    [...draw(graph).matchAll(/<path d="M([\d.]+) .*?<polygon points="([\d.]+),/g)].map((
      m,
    ) => [Number(m[1]), Number(m[2])]);
  for (const inputs of [[0, 3], [3, 0]]) {
    const arrows = landings({ nodes: [{ op: "Div", inputs }] });
    assert.equal(arrows.length, 3);
    assert.ok(arrows[0]![1]! < arrows[1]![1]!);
  }
});

Deno.test("more nodes than a picture holds are refused", () => {
  const chain = validate({
    nodes: Array.from({ length: maxNodes }, (_, k) => ({ op: "Neg", inputs: [k && 3 + k] })),
  });
  assert.throws(
    () => draw(chain),
    /^RangeError: Cannot draw the graph as it must have at most 200 nodes: .* is 4097/,
  );
});
