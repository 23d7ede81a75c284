import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { availableBackends, type BackendName, useBackend } from "../../lib/tensor/mod.ts";

// Mesa's software driver complains about its absence on every start.
process.env.XDG_RUNTIME_DIR ??= tmpdir();

const names: readonly BackendName[] = ["wasm", "tensorflow", "webgpu"];
const allowSoftware = true;
const available = await availableBackends({ allowSoftware });

/** A test on one backend, skipped with a printed reason where the machine does not have it. */
function onBackend(name: BackendName, title: string, test: () => Promise<void>): void {
  const reason = available.get(name) ?? null;
  if (reason !== null) console.log(`skipped on ${name}: ${reason}`);
  Deno.test({
    name: `${name}: ${title}`,
    ignore: reason !== null,
    // Backends live as long as the process.
    sanitizeResources: false,
    sanitizeOps: false,
    fn: async () => {
      await useBackend(name, { allowSoftware });
      await test();
    },
  });
}

/** Runs TypeScript in a process of its own with the repository's configuration. */
async function runScript(
  script: string,
  permissions: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; output: string }> {
  const root = fileURLToPath(new URL("../../", import.meta.url));
  const folder = await mkdtemp(join(tmpdir(), "normlab-test-"));
  try {
    const file = join(folder, "script.ts");
    await Deno.writeTextFile(file, script);
    // Not node:child_process, which adds "-A" when the child is Deno.
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", `--config=${join(root, "deno.json")}`, ...permissions, file],
      cwd: root,
      env: { NO_COLOR: "1", ...env },
    }).output();
    const decoder = new TextDecoder();
    return { code, output: decoder.decode(stdout) + decoder.decode(stderr) };
  } finally {
    await rm(folder, { recursive: true });
  }
}

const moduleUrl = new URL("../../lib/tensor/mod.ts", import.meta.url).href;

Deno.test("wasm is always there", () => {
  assert.equal(available.get("wasm"), null);
  assert.deepEqual([...available.keys()], names);
});

Deno.test("an unknown backend, and TensorFlow.js's cpu, are refused with the list of names", async () => {
  for (const name of ["cpu", "webgl", "cuda", ""]) {
    await assert.rejects(
      () => useBackend(name as BackendName),
      new RangeError(
        "Cannot use a backend as 'name' must be one of auto, wasm, tensorflow, webgpu: " +
          `current name is '${name}'`,
      ),
    );
  }
});

for (const name of names) {
  onBackend(name, "is really the one in use, and says what it is", async () => {
    const record = await useBackend(name, { allowSoftware });
    assert.equal(record.name, name);
    assert.equal(tf.getBackend(), name);
    assert.equal(record.tfjs, tf.version.tfjs);
    assert.notEqual(record.device, "");
    assert.notEqual(record.driver, "");
    assert.ok(record.threads >= 1);
    if (name === "tensorflow") assert.match(record.library ?? "", /^libtensorflow \d+\.\d+/);
    assert.equal(await useBackend(name, { allowSoftware }), record, "asking again changes nothing");
  });

  onBackend(name, "matrix product and convolution of small whole numbers are exact", async () => {
    const product = tf.matMul(tf.tensor2d([[1, 2], [3, 4]]), tf.tensor2d([[5, 6], [7, 8]]));
    assert.deepEqual(await product.array(), [[19, 22], [43, 50]]);
    const image = tf.reshape(tf.range(0, 16), [1, 4, 4, 1]) as tf.Tensor4D;
    const blurred = tf.conv2d(image, tf.ones([3, 3, 1, 1]) as tf.Tensor4D, 1, "valid");
    assert.deepEqual([...await blurred.data()], [45, 54, 81, 90]);
  });

  onBackend(name, "convolutions can be trained", async () => {
    const model = (x: tf.Tensor, w: tf.Tensor, depthwise: tf.Tensor) =>
      tf.depthwiseConv2d(
        tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, "same"),
        depthwise as tf.Tensor4D,
        1,
        "same",
      );
    const inputs = [tf.ones([2, 8, 8, 4]), tf.ones([3, 3, 4, 4]), tf.ones([3, 3, 4, 1])];
    const gradients = tf.grads(model)(inputs, tf.ones([2, 8, 8, 4]));
    // The model is linear in each input, and all are ones: each gradient sums to the sum of the output. Along
    // one axis the two convolutions give 5 8 9 9 9 9 8 5, sum 62: 62^2 x 2 images x 4 x 4 channels = 123,008.
    for (const gradient of gradients) assert.equal((await tf.sum(gradient).data())[0], 123_008);
  });

  onBackend(name, "the gradient of a maximum reaches a broadcast input, half of it at a tie", async () => {
    const a = tf.tensor2d([[1, 5, 2], [3, 0, 2]]);
    const [da, db] = tf.grads((a, b) => tf.maximum(a!, b!))([a, tf.tensor1d([2, 2, 2])]);
    assert.deepEqual(await da!.array(), [[0, 1, 0.5], [1, 0, 0.5]]);
    assert.deepEqual(await db!.array(), [1, 1, 1]);
    const [dc] = tf.grads((c) => tf.minimum(a, c!))([tf.scalar(2)]);
    assert.equal((await dc!.data())[0], 3);
  });
}

Deno.test({
  name: "one can change between backends and back",
  sanitizeResources: false,
  sanitizeOps: false,
  fn: async () => {
    for (const name of [...names, ...names].filter((name) => available.get(name) === null)) {
      assert.equal((await useBackend(name, { allowSoftware })).name, name);
      assert.deepEqual([...await tf.add(tf.tensor1d([1, 2]), 1).data()], [2, 3]);
    }
  },
});

Deno.test("a missing tensorflow says how to get it, and auto takes wasm", async () => {
  const empty = await mkdtemp(join(tmpdir(), "normlab-empty-"));
  try {
    const { code, output } = await runScript(
      `import { availableBackends, useBackend } from ${JSON.stringify(moduleUrl)};
       console.log((await useBackend("auto")).name);
       console.log((await availableBackends()).get("tensorflow"));
       await useBackend("tensorflow");`,
      ["--allow-read", "--allow-env", "--allow-sys=cpus"],
      { NORMLAB_CACHE: empty },
    );
    assert.equal(code, 1);
    assert.match(output, /^wasm$/m);
    assert.match(output, /^TensorFlow [\d.]+ is not set up in .*run "deno task setup:tensorflow"$/m);
    assert.match(output, /Error: Cannot use the backend 'tensorflow': .*run "deno task setup:tensorflow"/);
  } finally {
    await rm(empty, { recursive: true });
  }
});

Deno.test("wasm needs the permission to read, and says so", async () => {
  const script = `import { useBackend } from ${JSON.stringify(moduleUrl)};
    console.log((await useBackend("wasm")).name);`;
  const allowed = await runScript(script, ["--allow-read"]);
  assert.equal(allowed.code, 0, allowed.output);
  const refused = await runScript(script, []);
  assert.equal(refused.code, 1);
  assert.match(refused.output, /Cannot use the backend 'wasm': .*it needs --allow-read/);
});

const softwareOnly = await availableBackends().then((strict) =>
  available.get("webgpu") === null && strict.get("webgpu") !== null
);

Deno.test({
  name: "webgpu: a software adapter is refused unless asked for",
  ignore: !softwareOnly,
  fn: async () => {
    const { code, output } = await runScript(
      `import { useBackend } from ${JSON.stringify(moduleUrl)};
       await useBackend("webgpu").catch((error) => console.log(error.message));
       console.log((await useBackend("webgpu", { allowSoftware: true })).software);`,
      [],
    );
    assert.equal(code, 0, output);
    assert.match(output, /Cannot use the backend 'webgpu': the only adapter is software, '.+'/);
    assert.match(output, /pass \{ allowSoftware: true \} to accept it/);
    assert.match(output, /^true$/m);
  },
});

/** A program of four threads, each writing what the WGSL expression `statement` says. */
function customProgram(statement: string) {
  return {
    variableNames: ["A"],
    outputShape: [4],
    shaderKey: `custom ${statement}`,
    workgroupSize: [64, 1, 1] as [number, number, number],
    dispatchLayout: { x: [0] },
    dispatch: [1, 1, 1] as [number, number, number],
    size: true,
    getUserCode: () =>
      `fn main(index : i32) { if (index < uniforms.size) { setOutputAtIndex(index, ${statement}); } }`,
  };
}

onBackend("webgpu", "a broken shader makes the read, and the next operation, throw", async () => {
  const backend = () => tf.backend() as WebGPUBackend;
  const run = (statement: string) => {
    const info = backend().runWebGPUProgram(customProgram(statement), [tf.tensor1d([1, 2, 3, 4])], "float32");
    return tf.engine().makeTensorFromTensorInfo(info);
  };
  assert.deepEqual([...await run("getAByOutputIndex(index) + 1.0").data()], [2, 3, 4, 5]);

  const stale = run("getAByOutputIndex(index) + nonsense");
  const report = /the device reports GPUValidationError: [^]*nonsense[^]*useBackend\("webgpu"\)/;
  await assert.rejects(() => stale.data(), report);
  assert.throws(() => tf.square(stale), report);
  await assert.rejects(() => stale.data(), report, "the error stays");

  await useBackend("webgpu", { allowSoftware });
  assert.deepEqual([...await run("getAByOutputIndex(index) * 2.0").data()], [2, 4, 6, 8]);
});

onBackend("webgpu", "a lost device throws, and can be replaced", async () => {
  const onDevice = tf.square(tf.randomUniform([64, 64]));
  (tf.backend() as WebGPUBackend).device.destroy();
  const report = /the GPU device must be there: it was lost \(destroyed[^]*useBackend\("webgpu"\)/;
  await assert.rejects(() => onDevice.data(), report);
  assert.throws(() => tf.square(onDevice), report);

  await useBackend("webgpu", { allowSoftware });
  assert.deepEqual([...await tf.square(tf.tensor1d([1, 2, 3])).data()], [1, 4, 9]);
});

onBackend("webgpu", "reading synchronously says what to do instead", async () => {
  const onDevice = tf.square(tf.ones([64, 64]));
  assert.throws(() => onDevice.dataSync(), /Cannot read a tensor synchronously .* use await data\(\)/);
  assert.equal((await onDevice.data())[0], 1);
  assert.equal(onDevice.dataSync()[0], 1, "once read, the values are at hand");
});
