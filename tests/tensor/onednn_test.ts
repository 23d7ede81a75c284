import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { ConvolutionProduct } from "../../lib/convolution/mod.ts";
import type { ConvolutionOperands } from "../../lib/tensor/_convolution_engine.ts";
import { onednnEngine, onednnProblem } from "../../lib/tensor/_onednn.ts";
import { loadOnednn } from "../../lib/tensor/_onednn_library.ts";
import { OnednnConvolution, OnednnRuntime } from "../../lib/tensor/_onednn_primitive.ts";
import {
  onednnFiles,
  onednnVersion,
  type Stream,
  stream,
  useBackend,
  wasmHeap,
} from "../../lib/tensor/mod.ts";
import { unpackLibrary } from "../../tools/_onednn_stages.ts";
import { setUp } from "../../tools/setup_onednn.ts";
import { sha256Of } from "../../tools/_stages.ts";
import { type File, inFolder, zip } from "./_archives.ts";
import {
  type Convolution,
  describe,
  filterGradient,
  geometryOf,
  inputGradient,
  output,
  outputShape,
  type Padding,
  type Pair,
} from "../convolution/_reference.ts";

const missing = onednnProblem();
if (missing !== null) console.log(`skipping the tests of oneDNN: ${missing}`);

function test(name: string, run: () => Promise<void> | void): void {
  Deno.test({
    name,
    ignore: missing !== null,
    async fn() {
      await useBackend("wasm");
      await run();
    },
  });
}

/** Random convolutions of each kind. */
const COUNT = 80;
const GUARD = 64;
const GUARD_VALUE = 12345;
const GUARD_BYTE = 0x7b;

/** Values in the wasm memory, between guards that nobody may write to. */
class Guarded {
  readonly #block: number;
  /** An address 4 bytes off the allocator's: tensors need not lie on vector boundaries. */
  readonly address: number;

  constructor(readonly length: number, values: Float32Array | null) {
    this.#block = wasmHeap.allocate(4 * (length + 2 * GUARD + 1));
    this.address = this.#block + 4 * GUARD + 4;
    this.#view(-GUARD, length + 2 * GUARD).fill(GUARD_VALUE);
    // What is not written by the engine stays NaN.
    if (values === null) this.#view(0, length).fill(NaN);
    else this.#view(0, length).set(values);
  }

  #view(from: number, length: number): Float32Array {
    return new Float32Array(wasmHeap.memory.buffer, this.address + 4 * from, length);
  }

  read(): Float32Array {
    const guards = [...this.#view(-GUARD, GUARD), ...this.#view(this.length, GUARD)];
    assert.ok(guards.every((value) => value === GUARD_VALUE), "wrote beyond the tensor");
    return this.#view(0, this.length).slice();
  }

  free(): void {
    wasmHeap.free(this.#block);
  }
}

const lengthOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/**
 * Runs a product and compares each number with float64 sums.
 *
 * The error of a float32 sum, in any order, is a few units in the last place of the sum of the absolute values of
 * its terms: 16 of them here (2^-24 each), where the longest sums have thousands of terms.
 *
 * @returns False where the engine does not take the convolution.
 */
function compare(convolution: Convolution, product: ConvolutionProduct, draws: Stream): boolean {
  const run = onednnEngine().prepare(product, geometryOf(convolution));
  if (run === null) return false;
  const shapes = { input: convolution.input, filter: convolution.filter, output: outputShape(convolution) };
  const written = ({ forward: "output", inputGradient: "input", filterGradient: "filter" } as const)[product];
  const values = {
    input: draws.normal(lengthOf(shapes.input)),
    filter: draws.normal(lengthOf(shapes.filter)),
    output: draws.normal(lengthOf(shapes.output)),
  };
  const places = (["input", "filter", "output"] as const).map((name) =>
    [name, new Guarded(values[name].length, name === written ? null : values[name])] as const
  );
  const operands = Object.fromEntries(places.map(([name, { address }]) => [name, address]));
  run(operands as unknown as ConvolutionOperands);
  const expected = sums(convolution, product, values);
  const scale = sums(convolution, product, {
    input: values.input.map(Math.abs),
    filter: values.filter.map(Math.abs),
    output: values.output.map(Math.abs),
  });
  const text = `${product} ${describe(convolution)}`;
  for (const [name, place] of places) {
    const found = place.read();
    if (name === written) {
      const wrong = found.findIndex((value, i) =>
        !(Math.abs(value - expected[i]!) <= 16 * 2 ** -24 * scale[i]!)
      );
      assert.equal(wrong, -1, `${text}: [${wrong}] is ${found[wrong]}, not ${expected[wrong]}`);
    } else {
      assert.deepEqual(found, values[name], `${text}: ${name} was changed`);
    }
    place.free();
  }
  return true;
}

function sums(
  convolution: Convolution,
  product: ConvolutionProduct,
  { input, filter, output: dy }: Record<"input" | "filter" | "output", Float32Array>,
): Float64Array {
  if (product === "forward") return output(convolution, input, filter);
  if (product === "inputGradient") return inputGradient(convolution, dy, filter);
  return filterGradient(convolution, input, dy);
}

const products: ConvolutionProduct[] = ["forward", "inputGradient", "filterGradient"];
const choose = <T>(draws: Stream, from: readonly T[]): T => from[draws.integers(1, from.length)[0]!]!;

/** A convolution whose filter fits. */
function randomConvolution(draws: Stream, depthwise: boolean): Convolution {
  const pair = (from: readonly number[]): Pair => [choose(draws, from), choose(draws, from)];
  const channels = choose(draws, [1, 2, 3, 4, 8, 16, 17, 32]);
  const convolution: Convolution = {
    depthwise,
    input: [choose(draws, [1, 2, 5]), ...pair([1, 4, 7, 8, 13]), channels],
    filter: [
      ...pair([1, 2, 3, 5]),
      channels,
      depthwise ? choose(draws, [1, 1, 2, 3]) : choose(draws, [1, 3, 5, 16, 24, 64]),
    ],
    strides: pair([1, 1, 2, 3]),
    dilations: pair([1, 1, 1, 2, 3]),
    pad: choose<Padding>(draws, ["same", "valid", [[0, 0], pair([0, 1, 2, 4]), pair([0, 1, 2, 4]), [0, 0]]]),
  };
  return outputShape(convolution).every((size) => size > 0)
    ? convolution
    : randomConvolution(draws, depthwise);
}

for (const depthwise of [false, true]) {
  test(`random ${depthwise ? "depthwise" : "regular"} convolutions are right, and write nowhere else`, () => {
    let taken = 0;
    for (let i = 0; i < COUNT; i++) {
      const draws = stream("oneDNN").child(String(depthwise)).child(i);
      const convolution = randomConvolution(draws, depthwise);
      for (const product of products) if (compare(convolution, product, draws)) taken++;
    }
    // The rest, e.g. multipliers, is for the next engine.
    assert.ok(taken > (depthwise ? COUNT / 3 : 2.7 * COUNT), `the engine took ${taken} of ${3 * COUNT}`);
  });
}

test("the convolutions of ResNet and MobileNet are right", () => {
  const convolution = (size: number, filter: Convolution["filter"], stride: number, depthwise = false) =>
    ({
      depthwise,
      input: [2, size, size, filter[2]],
      filter,
      strides: [stride, stride],
      dilations: [1, 1],
      pad: "same",
    }) as Convolution;
  const found = [
    convolution(24, [3, 3, 3, 16], 1),
    convolution(24, [3, 3, 16, 16], 1),
    convolution(24, [3, 3, 16, 32], 2),
    convolution(24, [1, 1, 16, 32], 2),
    convolution(7, [3, 3, 64, 64], 1),
    convolution(7, [1, 1, 96, 24], 1),
    convolution(15, [3, 3, 96, 1], 1, true),
    convolution(16, [3, 3, 96, 1], 2, true),
    convolution(16, [5, 5, 40, 1], 1, true),
  ].map((each) => products.map((product) => compare(each, product, stream(product))));
  for (const taken of found.slice(0, 6)) assert.deepEqual(taken, [true, true, true]);
  for (const [forward] of found.slice(6)) assert.ok(forward);
});

/** Working memory between guards, which take the place of what lies around it. */
class GuardedRuntime extends OnednnRuntime {
  #block = new Uint8Array(0);
  #start = 0;
  #end = 0;

  override workingMemory(bytes: bigint): bigint {
    const around = 4096;
    this.#block = new Uint8Array(Number(bytes) + 2 * around).fill(GUARD_BYTE);
    const address = this.library.addressOf(this.#block);
    const begin = (address + BigInt(around) - 1n) / 64n * 64n;
    this.#start = Number(begin - address);
    this.#end = this.#start + Number(bytes);
    return begin;
  }

  isWhole(): boolean {
    const around = [this.#block.subarray(0, this.#start), this.#block.subarray(this.#end)];
    return around.every((bytes) => bytes.every((byte) => byte === GUARD_BYTE));
  }
}

// The library has code that fails this: see `isGood` in lib/tensor/_onednn_primitive.ts.
test("the library stays in its working memory", () => {
  const runtime = new GuardedRuntime(loadOnednn(onednnFiles().library));
  let used = 0;
  for (let i = 0; i < 400; i++) {
    const draws = stream("working memory").child(i);
    const convolution = randomConvolution(draws, i % 4 === 0);
    if (i % 2 === 1) convolution.filter.splice(0, 2, 1, 1);
    const places = [convolution.input, convolution.filter, outputShape(convolution)]
      .map((shape) => wasmHeap.allocate(4 * lengthOf(shape)));
    const [input, filter, output] = places as [number, number, number];
    const base = runtime.library.addressOf(new Uint8Array(wasmHeap.memory.buffer as ArrayBuffer));
    for (const product of products) {
      const primitive = OnednnConvolution.create(runtime, product, geometryOf(convolution));
      primitive?.run(base, { input, filter, output });
      primitive?.destroy();
      if (primitive !== null) used++;
      assert.ok(runtime.isWhole(), `${product} ${describe(convolution)}`);
    }
    places.forEach(wasmHeap.free);
  }
  assert.ok(used > 400, `${used} products`);
});

// TensorFlow's own build of the library writes beyond its memory here.
test("filter gradients of strided 1x1 convolutions are right, and write nowhere else", () => {
  for (const channels of [1, 2, 3, 4, 5, 8, 16, 17, 32]) {
    for (const stride of [2, 3]) {
      for (const size of [4, 5, 8, 9]) {
        const convolution: Convolution = {
          depthwise: false,
          input: [2, size, size, channels],
          filter: [1, 1, channels, 6],
          strides: [stride, stride],
          dilations: [1, 1],
          pad: "same",
        };
        const taken = compare(convolution, "filterGradient", stream(channels));
        assert.ok(taken || channels % 16 !== 0, describe(convolution));
      }
    }
  }
});

const small: Convolution = {
  depthwise: false,
  input: [1, 5, 5, 4],
  filter: [3, 3, 4, 8],
  strides: [1, 1],
  dilations: [1, 1],
  pad: "same",
};

test("a prepared convolution goes on when the wasm memory grows", () => {
  assert.ok(compare(small, "forward", stream(1)));
  const before = wasmHeap.memory.buffer;
  const blocks: number[] = [];
  while (wasmHeap.memory.buffer === before) blocks.push(wasmHeap.allocate(1 << 24));
  assert.ok(compare(small, "forward", stream(2)));
  blocks.forEach(wasmHeap.free);
});

test("a prepared convolution is made again when hundreds of others took its place", () => {
  const run = onednnEngine().prepare("forward", geometryOf(small))!;
  for (let width = 3; width < 603; width++) {
    assert.ok(onednnEngine().prepare("forward", geometryOf({ ...small, input: [1, 3, width, 4] })));
  }
  const [x, w, y] = [100, 288, 200].map((length) => new Guarded(length, new Float32Array(length).fill(1)));
  run({ input: x!.address, filter: w!.address, output: y!.address });
  assert.equal(y!.read()[2 * 40 + 2 * 8], 36); // 3 x 3 pixels of 4 channels
  for (const place of [x, w, y]) place!.free();
});

test("convolutions that the library would compute otherwise are left to others", () => {
  const geometry = geometryOf(small);
  const [height, width] = geometry.axes;
  const prepare = (changed: Partial<typeof height>) =>
    onednnEngine().prepare("forward", { ...geometry, axes: [{ ...height, ...changed }, width] });
  assert.notEqual(prepare({}), null);
  assert.equal(prepare({ before: -1, output: 4 }), null);
  assert.equal(prepare({ output: 3 }), null); // leaves rows out that another step would read
});

test("failures of the library are errors that say what failed", () => {
  const geometry = geometryOf(small);
  assert.throws(
    () => onednnEngine().prepare("forward", { ...geometry, batch: -2 }),
    /Cannot create a layout as oneDNN must succeed: its arguments are not valid \(status 2\)/,
  );
});

/** What a program that imports lib/tensor prints in a process of its own. */
function printedBy(program: string, flags: string[], env: Record<string, string>): string {
  const root = new URL("../../", import.meta.url);
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["run", "--quiet", "--no-prompt", "--config", fileURLToPath(new URL("deno.json", root)), ...flags, "-"],
    {
      input: `import { onednnProblem } from "${root}lib/tensor/_onednn.ts";
        import { useBackend } from "${root}lib/tensor/mod.ts"; ${program}`,
      env: { ...process.env, NO_COLOR: "1", NORMLAB_ONEDNN: "", ...env },
      encoding: "utf8",
    },
  );
  return (stdout + stderr).trim();
}

const most = ["--allow-read", "--allow-env", "--allow-sys"];

Deno.test("why there is no oneDNN: declined, not permitted, not set up", async () => {
  const program = "console.log(onednnProblem());";
  assert.equal(printedBy(program, ["-A"], { NORMLAB_ONEDNN: "off" }), "declined by NORMLAB_ONEDNN=off");
  assert.equal(printedBy(program, most, {}), "loading it needs --allow-ffi");
  await inFolder((folder) => {
    assert.equal(
      printedBy(program, [...most, "--allow-ffi"], { NORMLAB_CACHE: folder }),
      `oneDNN ${onednnVersion} is not set up in ${folder}/onednn-${onednnVersion}; run "deno task setup:onednn"`,
    );
    return Promise.resolve();
  });
});

Deno.test("the backend's record names oneDNN where it is used, and only there", async () => {
  const program = 'console.log((await useBackend("wasm")).library);';
  assert.doesNotMatch(printedBy(program, most, {}), /oneDNN|rror/);
  if (missing === null) {
    assert.match(printedBy(program, [...most, "--allow-ffi"], {}), /^convolutions by oneDNN 3\.2\.0, /);
  }
  await inFolder(async (folder) => {
    const files = onednnFiles(folder);
    await mkdir(files.libraries, { recursive: true });
    await writeFile(files.library, "no library");
    await writeFile(files.ready, "{}");
    assert.match(
      printedBy(program, [...most, "--allow-ffi"], { NORMLAB_CACHE: folder }),
      /Cannot use oneDNN as .*libdnnl\.so\.3 must load: .*NORMLAB_ONEDNN=off computes without it/,
    );
  });
});

const inWheel = (name: string) => `onednn_cpu_gomp-2023.2.0.data/data/${name}`;
const wheelFiles: File[] = [
  { name: inWheel("lib/libdnnl.so"), text: "library".repeat(1000) },
  { name: inWheel("lib/libdnnl.so.3"), text: "library".repeat(1000) },
  { name: inWheel("share/doc/onednn/LICENSE"), text: "licence" },
  { name: inWheel("share/doc/onednn/THIRD-PARTY-PROGRAMS"), text: "others" },
];

Deno.test("one library and its licences are taken from the wheel; another wheel is refused", () =>
  inFolder(async (folder) => {
    const wheel = join(folder, "a.whl");
    const out = join(folder, "out");
    await writeFile(wheel, zip(wheelFiles));
    await unpackLibrary(wheel, await sha256Of(wheel), out);
    assert.deepEqual((await readdir(out, { recursive: true })).sort(), [
      "LICENSE",
      "THIRD-PARTY-PROGRAMS",
      "libdnnl.so.3",
    ]);
    assert.equal(await readFile(join(out, "libdnnl.so.3"), "utf8"), "library".repeat(1000));

    await writeFile(wheel, zip(wheelFiles.slice(2)));
    await assert.rejects(
      async () => unpackLibrary(wheel, await sha256Of(wheel), join(folder, "other")),
      /must hold libdnnl\.so\.3: it does not/,
    );
    const files = onednnFiles(join(folder, "cache"));
    await assert.rejects(
      () => setUp(files, wheel, () => {}),
      /a\.whl as its sha256 must be [0-9a-f]{64}: current/,
    );
    assert.deepEqual(await readdir(files.folder), []);
  }));

Deno.test("the set-up, when all is there, says so and does nothing", () =>
  inFolder(async (folder) => {
    const files = onednnFiles(folder);
    await mkdir(files.folder);
    await writeFile(files.ready, "{}");
    const lines: string[] = [];
    await setUp(files, undefined, (line) => lines.push(line));
    assert.deepEqual(lines, [`oneDNN ${onednnVersion} is set up in ${files.folder}`]);
    assert.deepEqual(await readdir(files.folder), ["ready.json"]);
  }));
