import assert from "node:assert/strict";
import { fromJSON, maxNodes, published, toJSON, validate } from "../../lib/graph/mod.ts";

const graph = (...nodes: unknown[]) => ({ nodes });
const square = { op: "Square", inputs: [0] };

const refused: [string, unknown, typeof TypeError | typeof RangeError, RegExp][] = [
  ["null", null, TypeError, /must be an object \{ nodes: \[\.\.\.\] \}: current value is null/],
  ["a number", 7, TypeError, /must be an object .*: current value is 7/],
  ["an array", [], TypeError, /must be an object .*: current value is an array of 0/],
  ["nodes missing", {}, TypeError, /'nodes' must be an array: current 'nodes' is undefined/],
  ["nodes a string", { nodes: "Add" }, TypeError, /'nodes' must be an array: current 'nodes' is "Add"/],
  ["no nodes", graph(), RangeError, /at least one node: current number of nodes is 0/],
  [
    "too many nodes",
    graph(...Array(maxNodes + 1).fill(square)),
    RangeError,
    /at most 4096 nodes: current number is 4097/,
  ],
  ["a node that is no object", graph("Add"), TypeError, /node 4 must be an object .*: current node is "Add"/],
  ["a hole", { nodes: new Array(1) }, TypeError, /node 4 must be an object .*: current node is undefined/],
  [
    "an unknown primitive",
    graph({ op: "Sub", inputs: [0, 2] }),
    RangeError,
    /node 4 must be one of Add, .*std: current 'op' is "Sub"/,
  ],
  [
    "a primitive of Object",
    graph({ op: "constructor", inputs: [0] }),
    RangeError,
    /current 'op' is "constructor"/,
  ],
  ["no primitive", graph({ inputs: [0] }), RangeError, /current 'op' is undefined/],
  [
    "inputs missing",
    graph({ op: "Neg" }),
    TypeError,
    /node 4 \(Neg\) must have an array of 'inputs': .* undefined/,
  ],
  [
    "too few inputs",
    graph({ op: "Add", inputs: [0] }),
    TypeError,
    /node 4 \(Add\) must have 2 input\(s\): .* is 1/,
  ],
  [
    "too many inputs",
    graph({ op: "Neg", inputs: [0, 1] }),
    TypeError,
    /node 4 \(Neg\) must have 1 input\(s\): .* is 2/,
  ],
  [
    "a fraction as input",
    graph({ op: "Neg", inputs: [0.5] }),
    TypeError,
    /integers as inputs: current input is 0.5/,
  ],
  [
    "text as input",
    graph({ op: "Neg", inputs: ["0"] }),
    TypeError,
    /integers as inputs: current input is "0"/,
  ],
  [
    "a negative input",
    graph({ op: "Neg", inputs: [-1] }),
    RangeError,
    /point backwards, to indices 0\.\.3: current input is -1/,
  ],
  [
    "a pointer to itself",
    graph({ op: "Neg", inputs: [4] }),
    RangeError,
    /point backwards, to indices 0\.\.3: .* is 4/,
  ],
  [
    "a forward pointer",
    graph(square, { op: "Add", inputs: [0, 6] }),
    RangeError,
    /node 5 \(Add\) must point backwards.* is 6/,
  ],
  [
    "axes missing",
    graph({ op: "std", inputs: [0] }),
    TypeError,
    /node 4 \(std\) must have 'axes', one of bwh,.*missing/,
  ],
  [
    "unknown axes",
    graph({ op: "std", inputs: [0], axes: "hw" }),
    RangeError,
    /'axes' among bwh, .*: current 'axes' is "hw"/,
  ],
  [
    "axes on an element-wise op",
    graph({ ...square, axes: "wh" }),
    TypeError,
    /node 4 \(Square\) must have no 'axes'.* is "wh"/,
  ],
];

for (const [what, value, kind, message] of refused) {
  Deno.test(`validate refuses ${what}`, () => {
    assert.throws(() => validate(value), (error: Error) => {
      assert.equal(error.constructor, kind);
      assert.match(error.message, /^Cannot read the layer graph as /);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("every refusal has its own message", () => {
  const texts = refused.map(([what, value]) => {
    try {
      validate(value);
    } catch (error) {
      return (error as Error).message;
    }
    return `nothing refused: ${what}`;
  });
  assert.equal(new Set(texts).size, texts.length);
});

Deno.test("validate copies what belongs to a graph and drops the rest", () => {
  const value = { nodes: [{ op: "std", inputs: [0], axes: "wh", note: "?" }], id: 3 };
  const copy = validate(value);
  assert.deepEqual(copy, { nodes: [{ op: "std", inputs: [0], axes: "wh" }] });
  value.nodes[0]!.inputs[0] = 9;
  assert.deepEqual(copy.nodes[0]!.inputs, [0]);
});

Deno.test("a graph of the largest size is read", () => {
  const chain = Array.from({ length: maxNodes }, (_, k) => ({ op: "Neg", inputs: [k === 0 ? 0 : 3 + k] }));
  assert.equal(fromJSON(JSON.stringify({ nodes: chain })).nodes.length, maxNodes);
});

Deno.test("JSON text goes round", () => {
  for (const { graph } of Object.values(published)) assert.deepEqual(fromJSON(toJSON(graph)), graph);
});

Deno.test("fromJSON refuses broken text with a SyntaxError, absurd text before parsing it", () => {
  assert.throws(
    () => fromJSON('{"nodes":['),
    /^SyntaxError: Cannot read the layer graph as its text must be JSON/,
  );
  assert.throws(() => fromJSON(""), SyntaxError);
  assert.throws(
    () => fromJSON(" ".repeat(2 ** 21)),
    /^RangeError: .*at most 1048576 characters: .* is 2097152/,
  );
  assert.throws(() => fromJSON("[".repeat(1e5) + "]".repeat(1e5)), /TypeError: .* is an array of 1/);
});
