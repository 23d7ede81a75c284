import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { resnet } from "../../lib/models/mod.ts";
import {
  availableBackends,
  differentiable,
  stream,
  useBackend,
  variableGradients,
} from "../../lib/tensor/mod.ts";

type Gradients = typeof variableGradients;
const theirs: Gradients = (f, variables) => tf.variableGrads(f, variables);

/** The value and the gradients as numbers, by variable. */
async function numbers(
  gradients: Gradients,
  f: () => tf.Scalar,
  variables: tf.Variable[],
): Promise<(Float32Array | null)[]> {
  const { value, grads } = gradients(f, variables);
  const read: (Float32Array | null)[] = [];
  for (const tensor of [value, ...variables.map(({ name }) => grads[name])]) {
    read.push(tensor ? await tensor.data<"float32">() : null);
  }
  tf.dispose([value, grads]);
  return read;
}

/** A loss in which tensors are read twice, shared, sliced, unused and constant, and its variables. */
function tangle(): { f: () => tf.Scalar; variables: tf.Variable[] } {
  const draws = stream(3);
  const normal = (name: string, shape: number[]) =>
    tf.variable(tf.tensor(draws.child(name).normal(shape.reduce((a, b) => a * b, 1)), shape));
  const [a, b, unused] = [normal("a", [3, 7]), normal("b", [7, 3]), normal("unused", [2])];
  const constant = normal("constant", [3, 3]);
  const itself = (x: tf.Tensor) => differentiable([x], () => tf.mul(x, 2), (dy) => [dy]);
  const f = () => {
    const product = tf.matMul(a as tf.Tensor2D, b as tf.Tensor2D);
    const wide = tf.concat([product, tf.mul(product, product), tf.transpose(product)], 1);
    const [left, middle] = tf.split(wide, [4, 5], 1) as [tf.Tensor, tf.Tensor];
    tf.sin(wide);
    const shared = tf.add(itself(left), left.reshape([3, 4]));
    const again = tf.add(tf.add(shared, shared), tf.maximum(shared, 0.1));
    const sum = tf.sum(tf.mul(again, tf.slice(middle, [0, 1], [3, 4])));
    return tf.add(sum, tf.sum(tf.mul(tf.add(product, constant), tf.square(a).mean()))) as tf.Scalar;
  };
  return { f, variables: [a, b, unused] };
}

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  const skipped = { ignore: reason !== null };
  const where = `on ${backend}${reason === null ? "" : ` (skipped: ${reason})`}`;

  Deno.test(
    `variableGradients are those of tf.variableGrads, bit for bit, without leaks, ${where}`,
    skipped,
    async () => {
      await useBackend(backend, { allowSoftware: true });
      const { f, variables } = tangle();
      const expected = await numbers(theirs, f, variables);
      const before = tf.memory();
      assert.deepEqual(await numbers(variableGradients, f, variables), expected);
      assert.equal(expected[3], null);
      const { numTensors, numBytes } = tf.memory();
      assert.deepEqual([numTensors, numBytes], [before.numTensors, before.numBytes]);
    },
  );

  for (const layer of ["BN-ReLU", "EvoNorm-S0"]) {
    Deno.test(
      `variableGradients of a ResNet with ${layer} are those of tf.variableGrads ${where}`,
      skipped,
      async () => {
        await useBackend(backend, { allowSoftware: true });
        const config = {
          block: "basic",
          blocks: [1, 1, 1],
          width: 8,
          classes: 10,
          norm: { groups: 4 },
        } as const;
        const model = resnet({ ...config, layer }, stream(1));
        const images = tf.tensor4d(stream(2).normal(2 * 8 * 8 * 3), [2, 8, 8, 3]);
        const variables = model.parameters.filter(({ kind }) => kind !== "statistic").map(({ variable }) =>
          variable
        );
        const f = () => tf.mean(tf.square(model.forward(images, true))) as tf.Scalar;
        const expected = await numbers(theirs, f, variables);
        const before = tf.memory().numTensors;
        const measured = await numbers(variableGradients, f, variables);
        assert.equal(tf.memory().numTensors, before);
        // TensorFlow's threads share out some sums differently from run to run, in the last bits of float32.
        const tolerance = backend === "tensorflow" ? 1e-5 : 0;
        expected.forEach((values, index) => {
          const largest = Math.max(...values!.map(Math.abs));
          values!.forEach((value, i) =>
            assert.ok(Math.abs(measured[index]![i]! - value) <= tolerance * largest)
          );
        });
        tf.dispose(images);
        model.dispose();
      },
    );
  }
}

Deno.test("gradients summed in place are not taken for what they were by matrix products", async () => {
  await useBackend("wasm");
  // As in residual networks: each gradient is a product's second factor, then grows, then is one again.
  const x = tf.variable(tf.tensor2d(stream(4).normal(64), [8, 8]));
  const factor = tf.tensor2d(stream(5).normal(64), [8, 8]);
  const times = (h: tf.Tensor2D) =>
    differentiable([h], () => tf.matMul(factor, h), (dy) => [tf.matMul(tf.transpose(factor), dy)]);
  const f = () => {
    let h = x as tf.Tensor2D;
    for (let layer = 0; layer < 3; layer++) h = tf.add(h, times(h));
    return tf.mean(tf.square(h)) as tf.Scalar;
  };
  assert.deepEqual(await numbers(variableGradients, f, [x]), await numbers(theirs, f, [x]));
  tf.dispose([x, factor]);
});

Deno.test("variableGradients inside of another gradient can be differentiated", async () => {
  await useBackend("wasm");
  tf.tidy(() => {
    const w = tf.variable(tf.scalar(3));
    // d/dx of (d/dw of w^3 x^2) at w = 3, x = 2: 3 w^2 * 2 x
    const outer = tf.grad((x) => {
      const { grads } = variableGradients(() => tf.mul(tf.pow(w, 3), tf.square(x)) as tf.Scalar, [w]);
      return grads[w.name]!;
    });
    assert.ok(Math.abs(outer(tf.scalar(2)).dataSync()[0]! - 108) < 1e-4);
    w.dispose();
  });
});

Deno.test("a gradient taken inside of the loss is part of it", async () => {
  await useBackend("wasm");
  const w = tf.variable(tf.tensor1d([1, 2]));
  const before = tf.memory().numTensors;
  const f = () => tf.sum(tf.square(tf.grad((x) => tf.sum(tf.pow(x, 3)))(w))) as tf.Scalar;
  // sum (3 w^2)^2 has the gradient 36 w^3.
  const measured = await numbers(variableGradients, f, [w]);
  assert.equal(tf.memory().numTensors, before);
  assert.deepEqual([...measured[1]!].map(Math.round), [36, 288]);
  assert.deepEqual(measured, await numbers(theirs, f, [w]));
  w.dispose();
});

Deno.test("variableGradients leave nothing behind when the loss, its shape or a gradient is wrong", async () => {
  await useBackend("wasm");
  const w = tf.variable(tf.tensor1d([1, 2]));
  const before = tf.memory().numTensors;
  const broken = (x: tf.Tensor) =>
    differentiable([x], (save) => (save([x]), tf.square(x)), () => {
      throw new Error("no way back");
    });
  const cases: [() => tf.Tensor, RegExp][] = [
    [() => {
      tf.square(w);
      throw new Error("no way forward");
    }, /no way forward/],
    [() => tf.sum(broken(tf.square(w))), /no way back/],
    [() => tf.square(w), /'f' must give a scalar: current shape is \[2\]/],
    [() => tf.sum(tf.square(tf.ones([3]))), /must depend on a trainable variable/],
    [() => tf.sum(tf.mul(w, tf.ceil(w))).mul(tf.topk(w, 1).values.sum()), /TopK must have a gradient/],
  ];
  for (const [f, message] of cases) {
    assert.throws(() => variableGradients(f as () => tf.Scalar, [w]), message);
    assert.equal(tf.memory().numTensors, before);
  }
  assert.deepEqual(
    (await numbers(variableGradients, () => tf.sum(tf.square(w)), [w]))[1],
    Float32Array.of(2, 4),
  );
  const constant = variableGradients(() => tf.scalar(3), [w], { mayBeConstant: true });
  assert.deepEqual([constant.value.dataSync()[0], constant.grads], [3, {}]);
  constant.value.dispose();
  assert.equal(tf.memory().numTensors, before);
  w.dispose();
});

Deno.test("variableGradients hold fewer tensors at once than tf.variableGrads", async () => {
  await useBackend("wasm");
  const x = tf.variable(tf.ones([1024]));
  const most = async (gradients: Gradients) => {
    let largest = 0;
    const chained = (y: tf.Tensor) =>
      differentiable([y], (save) => (save([y]), tf.square(y)), (dy, [saved]) => {
        largest = Math.max(largest, tf.memory().numDataBuffers);
        return [tf.mul(dy, tf.mul(saved!, 2))];
      });
    const f = () => {
      let y: tf.Tensor = x;
      for (let index = 0; index < 16; index++) y = chained(y);
      return tf.sum(y) as tf.Scalar;
    };
    await numbers(gradients, f, [x]);
    return largest;
  };
  // 16 saved values; theirs holds as many gradients and twice as many intermediates beside them.
  const [ours, usual] = [await most(variableGradients), await most(theirs)];
  assert.ok(ours <= usual - 14, `${ours} and ${usual}`);
  x.dispose();
});
