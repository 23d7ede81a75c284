import assert from "node:assert/strict";
import {
  type GraphConstraints,
  graphSpace,
  INACTIVE,
  mutateGraph,
  operationName,
  operations,
  randomGraph,
  subset,
} from "../../lib/evolution/mod.ts";
import {
  active,
  batchIndependent,
  type GraphNode,
  initialNodes,
  type LayerGraph,
  primitives,
  publishedLayer,
  toJSON,
  validate,
} from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";

/**
 * Refuses counts that uniform draws give less than once in 10,000 times: the chi-square statistic against its 0.9999
 * quantile (Wilson and Hilferty's approximation, within 1% for these degrees of freedom). The seeds are fixed, so a
 * test either always passes or never.
 */
function assertUniform(counts: ReadonlyMap<string, number>, categories: readonly string[]): void {
  assert.deepEqual([...counts.keys()].filter((key) => !categories.includes(key)), []);
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const expected = total / categories.length;
  const statistic = categories.reduce(
    (sum, key) => sum + ((counts.get(key) ?? 0) - expected) ** 2 / expected,
    0,
  );
  const freedom = categories.length - 1;
  const bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * Math.sqrt(2 / (9 * freedom))) ** 3;
  assert.ok(statistic < bound, `chi-square ${statistic} of at most ${bound}: ${JSON.stringify([...counts])}`);
}

const counts = (keys: Iterable<string | number>): Map<string, number> => {
  const map = new Map<string, number>();
  for (const key of keys) map.set(String(key), (map.get(String(key)) ?? 0) + 1);
  return map;
};

const range = (n: number): string[] => Array.from({ length: n }, (_, i) => String(i));
const names = operations.map(operationName);

Deno.test("the statistic finds one operation that is drawn a fifth more often", () => {
  const biased = new Map(range(15).map((key) => [key, key === "0" ? 2400 : 2000]));
  assert.throws(() => assertUniform(biased, range(15)), /chi-square/);
  assert.throws(() => assertUniform(new Map([["x", 1]]), range(2)));
});

Deno.test("random graphs: operations, index sets and inputs are drawn uniformly, over names or operations", () => {
  const nodesOf = (over: "names" | "concrete", seed: number): GraphNode[] => {
    const draws = stream(seed);
    return Array.from({ length: 3000 }, () => randomGraph(draws, { primitives: over }).nodes).flat();
  };
  const byName = nodesOf("names", 1);
  assertUniform(counts(byName.map(({ op }) => op)), primitives);
  assertUniform(counts(byName.flatMap(({ axes }) => axes ?? [])), ["bwh", "whc", "wh", "whc/g"]);
  assertUniform(counts(nodesOf("concrete", 2).map(operationName)), names);
  for (const k of [0, 4, 9]) {
    const draws = stream(3).child(k);
    const last = Array.from({ length: 6000 }, () => randomGraph(draws).nodes[k]!);
    assertUniform(counts(last.flatMap(({ inputs }) => inputs[0]!)), range(4 + k));
    assertUniform(counts(last.flatMap(({ inputs }) => inputs[1] ?? [])), range(4 + k));
  }
});

Deno.test("random graphs are valid, of the size asked for, and the same for the same seed", () => {
  for (const nodes of [1, 2, 10, 17]) {
    const space = graphSpace({ nodes });
    const graphs = Array.from({ length: 50 }, (_, i) => space.fresh(stream(7).child(i)));
    for (const graph of graphs) assert.deepEqual(validate(graph), graph);
    assert.ok(graphs.every((graph) => graph.nodes.length === nodes));
    assert.deepEqual(Array.from({ length: 50 }, (_, i) => space.fresh(stream(7).child(i))), graphs);
    for (const graph of graphs) assert.deepEqual(space.decode(space.encode(graph)), graph);
  }
});

Deno.test("mutation changes one node: place, operation and predecessors are uniform, the rest stays", () => {
  const draws = stream(11);
  const parent = randomGraph(stream(12));
  const before = toJSON(parent);
  const children = Array.from({ length: 20_000 }, () => mutateGraph(parent, draws));
  assert.equal(toJSON(parent), before);
  const changes = children.map((child) => {
    const places = child.nodes.flatMap((node, k) => (node === parent.nodes[k] ? [] : [k]));
    assert.equal(places.length, 1);
    return { k: places[0]!, node: child.nodes[places[0]!]! };
  });
  assertUniform(counts(changes.map(({ k }) => k)), range(10));
  assertUniform(counts(changes.map(({ node }) => node.op)), primitives);
  const last = changes.filter(({ k }) => k === 9).flatMap(({ node }) => node.inputs);
  assertUniform(counts(last), range(13));
  const first = changes.filter(({ k }) => k === 0).flatMap(({ node }) => node.inputs);
  assertUniform(counts(first), range(4));
});

Deno.test("mutation with 'redraw: other' never keeps the node's operation, and stays uniform over the others", () => {
  const draws = stream(13);
  const parent: LayerGraph = { nodes: [{ op: "std", inputs: [0], axes: "wh" }] };
  const options = { primitives: "concrete", redraw: "other" } as const;
  const drawn = Array.from({ length: 12_000 }, () => mutateGraph(parent, draws, options).nodes[0]!);
  assertUniform(counts(drawn.map(operationName)), names.filter((name) => name !== "std[wh]"));
});

Deno.test("the winner is mutated twice: two nodes differ in nine of ten offspring, at most two in all", () => {
  const parent = randomGraph(stream(14));
  const changed = (mutations: number) => {
    const space = graphSpace({ mutations });
    return Array.from({ length: 4000 }, (_, i) => {
      const child = space.mutate(parent, stream(15).child(i));
      return child.nodes.filter((node, k) => node !== parent.nodes[k]).length;
    });
  };
  assert.ok(changed(1).every((n) => n === 1));
  const twice = changed(2);
  assert.ok(twice.every((n) => n === 1 || n === 2));
  // The second mutation meets the first one's node once in ten: 400 of 4000, within 4 standard deviations of 19.
  const once = twice.filter((n) => n === 1).length;
  assert.ok(Math.abs(once - 400) < 76, `${once} of 4000 offspring differ in one node`);
});

Deno.test("subset: every subset of a population is equally likely, in ascending order", () => {
  const draws = stream(16);
  const drawn = Array.from({ length: 10_000 }, () => subset(draws, 2, 5).join());
  const pairs = range(5).flatMap((a) => range(5).filter((b) => b > a).map((b) => `${a},${b}`));
  assertUniform(counts(drawn), pairs);
  assert.deepEqual(subset(draws, 4, 4), [0, 1, 2, 3]);
});

const activeNames = (graph: LayerGraph): string[] =>
  active(graph).filter((i) => i >= 4).map((i) => operationName(graph.nodes[i - initialNodes.length]!));

Deno.test("constraints hold for fresh graphs and for offspring, judged on active nodes", () => {
  const cases: [GraphConstraints, (graph: LayerGraph) => boolean][] = [
    [{ noBatchStatistics: true }, batchIndependent],
    [{ required: ["Div", "std"] }, (graph) => {
      const used = activeNames(graph);
      return used.includes("Div") && used.some((name) => name.startsWith("std["));
    }],
    [{ required: ["rms[wh]"] }, (graph) => activeNames(graph).includes("rms[wh]")],
    [
      { forbidden: ["Exp", "mean", "std[whc]"] },
      (graph) =>
        activeNames(graph).every((name) =>
          name !== "Exp" && !name.startsWith("mean[") && name !== "std[whc]"
        ),
    ],
    [{ leastNodes: 4, mostNodes: 5 }, (graph) => [4, 5].includes(activeNames(graph).length)],
  ];
  for (const [constraints, holds] of cases) {
    const { fresh, mutate } = graphSpace({ constraints });
    let graph = fresh(stream(21));
    let deadViolation = false;
    const unconstrained = Array.from({ length: 200 }, (_, i) => randomGraph(stream(22).child(i)));
    assert.ok(unconstrained.some((one) => !holds(one)), "the constraint excludes something");
    for (let i = 0; i < 200; i++) {
      assert.ok(holds(fresh(stream(23).child(i))), JSON.stringify(constraints));
      graph = mutate(graph, stream(24).child(i));
      assert.ok(holds(graph), JSON.stringify(constraints));
      deadViolation ||= graph.nodes.some(({ axes }) => axes === "bwh") && batchIndependent(graph);
    }
    if (constraints.noBatchStatistics) {
      assert.ok(deadViolation, "dead batch statistics are no reason to reject");
    }
  }
});

Deno.test("constraints draw uniformly among the graphs that satisfy them", () => {
  const space = graphSpace({ nodes: 1, primitives: "concrete", constraints: { noBatchStatistics: true } });
  const draws = stream(25);
  const drawn = Array.from({ length: 10_000 }, () => space.fresh(draws).nodes[0]!);
  assertUniform(counts(drawn.map(operationName)), names.filter((name) => !name.endsWith("[bwh]")));
});

Deno.test("constraints that nothing satisfies, or that contradict each other, are clear errors", () => {
  const never = graphSpace({ nodes: 1, attempts: 50, constraints: { required: ["Max", "Exp"] } });
  assert.throws(() => never.fresh(stream(1)), {
    name: "RangeError",
    message: "Cannot draw a layer graph as its constraints must be met by one of 50 draws: " +
      'current constraints are {"required":["Max","Exp"]} on 1 nodes',
  });
  const refused = (constraints: GraphConstraints, message: RegExp) =>
    assert.throws(() => graphSpace({ constraints }), { name: "RangeError", message });
  refused({ required: ["Relu"] }, /must be one of Add, .*std\[whc\/g\]: current operation is "Relu"/);
  refused({ required: ["Exp"], forbidden: ["Exp"] }, /must not be forbidden: current operation is "Exp"/);
  refused({ required: ["std[bwh]"], noBatchStatistics: true }, /current operation is "std\[bwh\]"/);
  refused({ leastNodes: 3, mostNodes: 2 }, /at most 'mostNodes', .*: current bounds are 3 and 2/);
  refused({ leastNodes: 11 }, /within 1 to 10: current bounds are 11 and 10/);
  assert.throws(() => graphSpace({ nodes: 0 }), /'nodes' must be a whole number from 1 to 4096/);
  assert.throws(() => graphSpace({ mutations: 1.5 }), /'mutations' must be/);
});

Deno.test("graphs without x are screened out; the hash finds equal functions", () => {
  const { screen, hash } = graphSpace();
  assert.equal(screen!({ nodes: [{ op: "Exp", inputs: [3] }] }), INACTIVE);
  assert.equal(screen!(publishedLayer("EvoNorm-B0").graph), null);
  const swapped: LayerGraph = { nodes: [{ op: "Exp", inputs: [0] }, { op: "Mul", inputs: [4, 0] }] };
  const original: LayerGraph = { nodes: [{ op: "Exp", inputs: [0] }, { op: "Mul", inputs: [0, 4] }] };
  assert.equal(hash!(swapped), hash!(original));
  assert.notEqual(hash!(swapped), hash!({ nodes: [{ op: "Mul", inputs: [0, 0] }] }));
});
