import {
  aggregations,
  arity,
  type GraphNode,
  indexSets,
  initialNodes,
  isAggregation,
  type LayerGraph,
  primitives,
} from "./types.ts";

/** Most intermediate nodes of a graph. The paper's genotypes have 10; far more is a broken file. */
export const maxNodes = 4096;

/** Longest JSON text that is parsed, in characters: room for `maxNodes` nodes with generous white space. */
const maxTextLength = 1 << 20;

/**
 * Checks that a value is a layer graph and returns a clean copy of it (unknown fields dropped).
 *
 * @throws TypeError for wrong types, arity, or axes that are missing or out of place; RangeError for an unknown
 * primitive or index set, a pointer that is not backwards, an empty graph or one above {@link maxNodes}.
 */
export function validate(value: unknown): LayerGraph {
  if (!isRecord(value)) {
    throw new TypeError(
      `${refuse} it must be an object { nodes: [...] }: current value is ${describe(value)}`,
    );
  }
  const { nodes } = value;
  if (!Array.isArray(nodes)) {
    throw new TypeError(`${refuse} 'nodes' must be an array: current 'nodes' is ${describe(nodes)}`);
  }
  if (nodes.length === 0) {
    throw new RangeError(`${refuse} it must have at least one node: current number of nodes is 0`);
  }
  if (nodes.length > maxNodes) {
    throw new RangeError(
      `${refuse} it must have at most ${maxNodes} nodes: current number is ${nodes.length}`,
    );
  }
  return { nodes: Array.from(nodes, (node, k) => validateNode(node, initialNodes.length + k)) };
}

const refuse = "Cannot read the layer graph as";

function validateNode(value: unknown, index: number): GraphNode {
  const where = `${refuse} node ${index}`;
  if (!isRecord(value)) {
    throw new TypeError(
      `${where} must be an object { op, inputs, axes? }: current node is ${describe(value)}`,
    );
  }
  const op = primitives.find((name) => name === value.op);
  if (op === undefined) {
    throw new RangeError(
      `${where} must be one of ${primitives.join(", ")}: current 'op' is ${describe(value.op)}`,
    );
  }
  const inputs = validateInputs(value.inputs, op, index);
  if (!isAggregation(op)) {
    if (value.axes !== undefined) {
      throw new TypeError(
        `${where} (${op}) must have no 'axes', which belong to ${aggregations.join(", ")}: ` +
          `current 'axes' is ${describe(value.axes)}`,
      );
    }
    return { op, inputs };
  }
  if (value.axes === undefined) {
    throw new TypeError(
      `${where} (${op}) must have 'axes', one of ${indexSets.join(", ")}: current 'axes' is missing`,
    );
  }
  const axes = indexSets.find((name) => name === value.axes);
  if (axes === undefined) {
    throw new RangeError(
      `${where} (${op}) must have 'axes' among ${indexSets.join(", ")}: current 'axes' is ${
        describe(value.axes)
      }`,
    );
  }
  return { op, inputs, axes };
}

function validateInputs(inputs: unknown, op: GraphNode["op"], index: number): number[] {
  const where = `${refuse} node ${index} (${op})`;
  if (!Array.isArray(inputs)) {
    throw new TypeError(`${where} must have an array of 'inputs': current 'inputs' is ${describe(inputs)}`);
  }
  if (inputs.length !== arity(op)) {
    throw new TypeError(
      `${where} must have ${arity(op)} input(s): current number of inputs is ${inputs.length}`,
    );
  }
  return Array.from(inputs, (input: unknown) => {
    if (typeof input !== "number" || !Number.isInteger(input)) {
      throw new TypeError(`${where} must have integers as inputs: current input is ${describe(input)}`);
    }
    if (input < 0 || input >= index) {
      throw new RangeError(
        `${where} must point backwards, to indices 0..${index - 1}: current input is ${input}`,
      );
    }
    return input;
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A short name for any value. Shallow on purpose: hostile values may be deep, cyclic or long. */
function describe(value: unknown): string {
  if (typeof value === "string") {
    return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  }
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value === "function" || typeof value === "symbol") return `a ${typeof value}`;
  return String(value);
}

/** A layer graph as compact JSON text, `{"nodes":[{"op":"std","inputs":[0],"axes":"bwh"},...]}`. */
export function toJSON(graph: LayerGraph): string {
  return JSON.stringify(validate(graph));
}

/**
 * Reads a layer graph from JSON text.
 *
 * @throws SyntaxError if the text is not JSON, RangeError if it is absurdly long, and what {@link validate} throws.
 */
export function fromJSON(text: string): LayerGraph {
  if (text.length > maxTextLength) {
    throw new RangeError(
      `${refuse} its text must have at most ${maxTextLength} characters: current length is ${text.length}`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`${refuse} its text must be JSON: current text is ${describe(text)}`, {
      cause: error,
    });
  }
  return validate(value);
}
