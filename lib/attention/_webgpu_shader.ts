/**
 * Attention as WGSL: one workgroup makes 64 rows of one head, tile of keys after tile of keys, and keeps of the scores
 * only what a tile needs (online softmax: Milakov and Gimelshein, arXiv 1805.02867; FlashAttention-2, arXiv 2307.08691).
 *
 * Every thread has four rows, of which it makes the scores of every `lanes`-th key, and the output of every `lanes`-th
 * four numbers of the dimension: what is summed stays in registers, and only tiles of q, k, v and the weights go through
 * workgroup memory. Room-private.
 */

/** Queries of a tile: 16 groups of 4 rows. */
export const QUERIES = 64;
/** Keys of a tile: the pattern of an edge is one word per row. */
export const KEYS = 32;
/** What every WebGPU device has of workgroup memory, in bytes. */
export const LEAST_WORKGROUP_BYTES = 16384;

const GROUPS = QUERIES / 4;
/** Numbers of four between two keys of weights, or two entries of queries: odd, so that neighbours use other banks. */
const STRIDE = GROUPS + 1;
/** More than this much workgroup memory leaves too few workgroups at a time on a GPU. */
const MOST_WORKGROUP_BYTES = 32768;

/** What a shader is made for; the numbers of queries, keys and heads are given when it runs. */
export interface ShaderSettings {
  readonly dim: number;
  /** How q, k and v are stored; sums are float32. */
  readonly storage: "float32" | "float16";
  /** Whether there is a tile list; without one, every tile is full. */
  readonly tiles: boolean;
  readonly lse: boolean;
  readonly epilogue: boolean;
  /** Workgroup memory it may use: at least {@link LEAST_WORKGROUP_BYTES}. */
  readonly workgroupBytes: number;
}

/** A shader and how to run it: `workgroups` of 64 queries, heads, batch rows. */
export interface Shader {
  readonly code: string;
  /** What is bound, in order; `sizes` is a uniform buffer of `SIZES` words. */
  readonly bindings: readonly string[];
  readonly threads: number;
  readonly workgroupBytes: number;
}

/**
 * The uniform words of the attention shader: queries, keys, 1 if the tile list has heads of its own, where columns, edges and
 * patterns begin in the list; as float32 the sign of the scale, |scale| log2(e) and |scale|.
 */
export const SIZES = 9;

/** How work and workgroup memory are divided; places and lengths in vectors of four. */
function plan(dim: number, workgroupBytes: number) {
  const length = Math.floor(Math.min(workgroupBytes, MOST_WORKGROUP_BYTES) / 16);
  const width = Math.ceil(dim / 4);
  // One or two vectors of the output for each thread and row, so 64 to 256 threads.
  const lanes = Math.max(4, width > 8 ? Math.ceil(width / 2) : width);
  const threads = GROUPS * lanes;
  const queryKeys = (chunk: number) => 4 * chunk * STRIDE + KEYS * (chunk | 1);
  let chunk = width;
  for (let chunks = 2; queryKeys(chunk) > length; chunks++) chunk = Math.ceil(width / chunks);
  // Queries and keys make room for the weights, then come the maxima and the values.
  const maxima = KEYS * STRIDE;
  const values = maxima + threads;
  let valueKeys = KEYS;
  while (values + valueKeys * width > length) valueKeys /= 2;
  return {
    width,
    lanes,
    threads,
    /** How many vectors of the dimension are multiplied at a time. */
    chunk,
    keys: 4 * chunk * STRIDE,
    keyStride: chunk | 1,
    maxima,
    values,
    /** How many rows of values are there at a time. */
    valueKeys,
    length: Math.max(queryKeys(chunk), values + valueKeys * width),
    /** Output vectors of a thread, for each row. */
    columns: Math.ceil(width / lanes),
    /** Scores of a thread, for each row. */
    scores: Math.ceil(KEYS / lanes),
  };
}

type Plan = ReturnType<typeof plan>;

/** `count` lines of code, in one block. */
const lines = (count: number, line: (index: number) => string) =>
  Array.from({ length: count }, (_, index) => line(index)).join("\n");

/** How four numbers of [rows, dim] are read; behind the end of a row are zeros. */
function four(name: string, dim: number, storage: ShaderSettings["storage"]): string {
  const width = Math.ceil(dim / 4);
  if (storage === "float16") return `vec4f(${name}[row * ${width}u + x])`;
  if (dim % 4 === 0) return `${name}[row * ${width}u + x]`;
  const parts = [0, 1, 2, 3].map((part) =>
    // What is read for nothing is of the next row, or the last number once more.
    `select(0.0, ${name}[row * ${dim}u + 4u * x + ${part}u], 4u * x + ${part}u < ${dim}u)`
  );
  return `vec4f(${parts.join(", ")})`;
}

/** How `four` numbers are written. */
function writeFour(name: string, dim: number): string {
  if (dim % 4 === 0) return `${name}[row * ${dim / 4}u + x] = four;`;
  return lines(
    4,
    (part) =>
      `if (4u * x + ${part}u < ${dim}u) { ${name}[row * ${dim}u + 4u * x + ${part}u] = four[${part}]; }`,
  );
}

/** The shader of attention. */
export function attentionShader(settings: ShaderSettings): Shader {
  const { dim, storage, tiles, lse, epilogue } = settings;
  const form = plan(dim, settings.workgroupBytes);
  const vectors = dim % 4 === 0 ? "vec4f" : "f32";
  const input = storage === "float16" ? "vec4<f16>" : vectors;
  const bindings: [name: string, mode: string, element: string][] = [
    ["q", "read", input],
    ["k", "read", input],
    ["v", "read", input],
    ["output", "read_write", vectors],
  ];
  if (tiles) bindings.push(["list", "read", "u32"]);
  // Bits, as a compiler may take it that no float32 is infinite.
  if (lse) bindings.push(["lse", "read_write", "u32"]);
  if (epilogue) bindings.push(["rho", "read", "f32"], ["residual", "read", vectors]);
  const code = `${storage === "float16" ? "enable f16;\n" : ""}
struct Sizes {
  queries: u32, keys: u32, ownHeads: u32, columns: u32, edges: u32, patterns: u32,
  sign: f32, logScale: f32, scale: f32,
}
@group(0) @binding(0) var<uniform> sizes: Sizes;
${
    lines(bindings.length, (index) => {
      const [name, mode, element] = bindings[index]!;
      return `@group(0) @binding(${index + 1}) var<storage, ${mode}> ${name}: array<${element}>;`;
    })
  }
// By turns: queries [dim, 16 groups of 4 rows] and keys [32, dim]; weights [32, 16 groups], maxima [threads], values [keys, dim].
var<workgroup> memory: array<vec4f, ${form.length}>;

// Dropped scores are LOWEST, and all up to DROPPED count as such.
const LOWEST = -3.0e38;
const DROPPED = vec4f(-1.0e38);

fn queryAt(row: u32, x: u32) -> vec4f { return ${four("q", dim, storage)}; }
fn keyAt(row: u32, x: u32) -> vec4f { return ${four("k", dim, storage)}; }
fn valueAt(row: u32, x: u32) -> vec4f { return ${four("v", dim, storage)}; }
${epilogue ? `fn residualAt(row: u32, x: u32) -> vec4f { return ${four("residual", dim, "float32")}; }` : ""}
fn write(row: u32, x: u32, four: vec4f) { ${writeFour("output", dim)} }

@compute @workgroup_size(${form.threads})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let rows = thread / ${form.lanes}u;
  let lane = thread % ${form.lanes}u;
  let head = group.z * groups.y + group.y;
  let firstQuery = group.x * ${QUERIES}u;
  var largest = vec4f(LOWEST);
  var sums = vec4f();
${lines(4 * form.columns, (index) => `  var o${index} = vec4f();`)}
${tileLoop(tiles)}
${scoresCode(form)}
${softmaxCode(form, tiles)}
${valuesCode(form)}
  }
${resultCode(form, settings)}
}
`;
  return {
    code,
    bindings: ["sizes", ...bindings.map(([name]) => name)],
    threads: form.threads,
    workgroupBytes: form.length * 16,
  };
}

/** Over the tiles of a row: `firstKey`, and `edge` where there is a list. */
function tileLoop(tiles: boolean): string {
  if (!tiles) return `  for (var firstKey = 0u; firstKey < sizes.keys; firstKey += ${KEYS}u) {`;
  return `
  let row = group.y * sizes.ownHeads * groups.x + group.x;
  let end = list[row + 1u];
  for (var at = list[row]; at < end; at++) {
    let firstKey = list[sizes.columns + at] * ${KEYS}u;
    let edge = bitcast<i32>(list[sizes.edges + at]);`;
}

/** `s0, s1, ...`: the scores of four queries and keys `lane + lanes i`, not yet scaled. */
function scoresCode({ width, lanes, threads, chunk, keys, keyStride, scores }: Plan): string {
  const one = chunk === width;
  const inside = one || width % chunk === 0 ? "" : ` && x < ${width}u`;
  return `
${lines(scores, (index) => `    var s${index} = vec4f();`)}
    for (var start = 0u; start < ${width}u; start += ${chunk}u) {
      for (var item = thread; item < ${GROUPS * chunk}u; item += ${threads}u) {
        let x = start + item % ${chunk}u;
        let firstRow = firstQuery + item / ${chunk}u * 4u;
        var read: mat4x4f;
${
    lines(4, (part) =>
      `        if (firstRow + ${part}u < sizes.queries${inside}) {
          read[${part}] = sizes.sign * queryAt(head * sizes.queries + firstRow + ${part}u, x);
        }`)
  }
        let turned = transpose(read);
        let place = item % ${chunk}u * ${4 * STRIDE}u + item / ${chunk}u;
${lines(4, (part) => `        memory[place + ${part * STRIDE}u] = turned[${part}];`)}
      }
      for (var item = thread; item < ${KEYS * chunk}u; item += ${threads}u) {
        let x = start + item % ${chunk}u;
        let key = item / ${chunk}u;
        var read = vec4f();
        if (firstKey + key < sizes.keys${inside}) { read = keyAt(head * sizes.keys + firstKey + key, x); }
        memory[${keys}u + key * ${keyStride}u + item % ${chunk}u] = read;
      }
      workgroupBarrier();
      for (var x = 0u; x < ${chunk}u; x++) {
        let place = x * ${4 * STRIDE}u + rows;
${lines(4, (part) => `        let q${part} = memory[place + ${part * STRIDE}u];`)}
${
    lines(scores, (index) => {
      const key = keyIndex(index, lanes);
      return `        let k${index} = memory[${keys}u + ${key.safe} * ${keyStride}u + x];
        s${index} = fma(q3, vec4f(k${index}.w), fma(q2, vec4f(k${index}.z), fma(q1, vec4f(k${index}.y), fma(q0, vec4f(k${index}.x), s${index}))));`;
    })
  }
      }
      workgroupBarrier();
    }`;
}

/** The key of a thread's score: as it is, and one that is in the tile. */
function keyIndex(index: number, lanes: number) {
  const key = `(lane + ${index * lanes}u)`;
  const within = (index + 1) * lanes <= KEYS;
  return { key, within, safe: within ? key : `min(lane + ${index * lanes}u, ${KEYS - 1}u)` };
}

/** Maxima of the rows, weights into memory, and what was summed brought to the new maxima. */
function softmaxCode({ lanes, maxima, scores, columns }: Plan, tiles: boolean): string {
  const all = (name: string) => Array.from({ length: scores }, (_, index) => `${name}${index}`);
  const edge = tiles ? "edge >= 0 || " : "";
  const patterns = tiles
    ? `
      if (edge >= 0) {
        let pattern = sizes.patterns + u32(edge) * ${QUERIES}u + rows * 4u;
        kept = vec4u(list[pattern], list[pattern + 1u], list[pattern + 2u], list[pattern + 3u]);
      }`
    : "";
  return `
    if (${edge}firstKey + ${KEYS}u > sizes.keys) {
      var kept = vec4u(0xffffffffu);${patterns}
      if (firstKey + ${KEYS}u > sizes.keys) { kept &= vec4u((1u << (sizes.keys - firstKey)) - 1u); }
${
    lines(scores, (index) => {
      const bit = keyIndex(index, lanes).safe;
      return `      s${index} = select(s${index}, vec4f(LOWEST), (kept & vec4u(1u << ${bit})) == vec4u());`;
    })
  }
    }
${
    lines(scores, (index) => {
      const { key, within } = keyIndex(index, lanes);
      return within ? "" : `    if (${key} >= ${KEYS}u) { s${index} = vec4f(LOWEST); }`;
    })
  }
    var newLargest = ${all("s").reduce((left, right) => `max(${left}, ${right})`)};
    memory[${maxima}u + thread] = newLargest;
    workgroupBarrier();
    newLargest = largest;
    for (var other = 0u; other < ${lanes}u; other++) {
      newLargest = max(newLargest, memory[${maxima}u + rows * ${lanes}u + other]);
    }
    // Differences first: those of large scores are exact, their products would not be.
    let shrink = select(exp2((largest - newLargest) * sizes.logScale), vec4f(), largest <= DROPPED);
    largest = newLargest;
${
    lines(
      scores,
      (index) =>
        `    let p${index} = select(exp2((s${index} - largest) * sizes.logScale), vec4f(), s${index} <= DROPPED);`,
    )
  }
    sums = fma(sums, shrink, ${all("p").join(" + ")});
${
    lines(scores, (index) => {
      const { key, within } = keyIndex(index, lanes);
      const store = `memory[${key} * ${STRIDE}u + rows] = p${index};`;
      return within ? `    ${store}` : `    if (${key} < ${KEYS}u) { ${store} }`;
    })
  }
${lines(4 * columns, (index) => `    o${index} *= shrink[${index % 4}];`)}`;
}

/** `o0, o1, ...`: output of row `index % 4`, vector `lane + lanes floor(index / 4)`. */
function valuesCode({ width, lanes, threads, values, valueKeys, columns }: Plan): string {
  return `
    for (var start = 0u; start < ${KEYS}u; start += ${valueKeys}u) {
      for (var item = thread; item < ${valueKeys * width}u; item += ${threads}u) {
        let key = firstKey + start + item / ${width}u;
        var read = vec4f();
        if (key < sizes.keys) { read = valueAt(head * sizes.keys + key, item % ${width}u); }
        memory[${values}u + item] = read;
      }
      workgroupBarrier();
      for (var key = 0u; key < ${valueKeys}u; key++) {
        let p = memory[(start + key) * ${STRIDE}u + rows];
${
    lines(columns, (column) => {
      const x = columnIndex(column, lanes, width).safe;
      return `        let v${column} = memory[${values}u + key * ${width}u + ${x}];\n` +
        lines(4, (row) =>
          `        o${4 * column + row} = fma(vec4f(p[${row}]), v${column}, o${4 * column + row});`);
    })
  }
      }
      workgroupBarrier();
    }`;
}

/** The vector of a thread's output: as it is, and one that is in the row. */
function columnIndex(column: number, lanes: number, width: number) {
  const x = `(lane + ${column * lanes}u)`;
  const within = (column + 1) * lanes <= width;
  return { x, within, safe: within ? x : `min(lane + ${column * lanes}u, ${width - 1}u)` };
}

/** Division by the sums, the epilogue, and what is written. */
function resultCode({ width, lanes, maxima, columns }: Plan, { lse, epilogue }: ShaderSettings): string {
  const store = (row: number, column: number) => {
    const { x, within } = columnIndex(column, lanes, width);
    const result = `o${4 * column + row} * divided[${row}]`;
    const final = epilogue ? `fma(vec4f(factor), ${result}, residualAt(row, ${x}))` : result;
    return `${within ? "" : `if (${x} < ${width}u) `}{ write(row, ${x}, ${final}); }`;
  };
  return `
  memory[${maxima}u + thread] = sums;
  workgroupBarrier();
  sums = vec4f();
  for (var other = 0u; other < ${lanes}u; other++) { sums += memory[${maxima}u + rows * ${lanes}u + other]; }
  // A row with keys has a sum of at least 1.
  let empty = sums == vec4f();
  sums = select(sums, vec4f(1.0), empty);
  let divided = 1.0 / sums;
${
    lse
      ? `  let statistic = select(bitcast<vec4u>(fma(largest, vec4f(sizes.scale), log(sums))), vec4u(0xff800000u), empty);`
      : ""
  }
${
    lines(4, (row) => `
  if (firstQuery + rows * 4u + ${row}u < sizes.queries) {
    let row = head * sizes.queries + firstQuery + rows * 4u + ${row}u;
    ${lse ? `if (lane == 0u) { lse[row] = statistic[${row}]; }` : ""}
    ${epilogue ? "let factor = rho[row];" : ""}
${lines(columns, (column) => `    ${store(row, column)}`)}
  }`)
  }`;
}

/** Stores [rows, dim] of float32 as float16, rows filled up with zeros to a multiple of four. */
export function halvingShader(dim: number): string {
  const width = Math.ceil(dim / 4);
  const vectors = dim % 4 === 0 ? "vec4f" : "f32";
  return `enable f16;
@group(0) @binding(0) var<storage, read> numbers: array<${vectors}>;
@group(0) @binding(1) var<storage, read_write> halves: array<vec4<f16>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var item = id.x; item < arrayLength(&halves); item += groups.x * 64u) {
    let row = item / ${width}u;
    let x = item % ${width}u;
    halves[item] = vec4<f16>(${four("numbers", dim, "float32")});
  }
}
`;
}
