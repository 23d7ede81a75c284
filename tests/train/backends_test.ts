import assert from "node:assert/strict";
import { resnet } from "../../lib/models/mod.ts";
import { availableBackends, type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";
import { evaluateClassifier, Sgd, trainStep } from "../../lib/train/mod.ts";

/** Losses of a few training steps and of the test after them, on one backend. */
async function losses(backend: BackendName, layer: string): Promise<number[]> {
  await useBackend(backend, { allowSoftware: true });
  const draws = stream(7);
  const model = resnet(
    { block: "basic", blocks: [1, 1, 1], width: 8, classes: 10, layer, norm: { groups: 4 } },
    draws.child("init"),
  );
  const optimizer = new Sgd(model.parameters);
  const side = 9;
  const batch = {
    images: draws.child("images").normal(6 * side * side * 3),
    labels: draws.child("labels").integers(6, 10),
    size: 6,
    height: side,
    width: side,
    channels: 3,
  };
  const values: number[] = [];
  for (let step = 0; step < 3; step++) values.push(await trainStep(model, optimizer, batch, 0.05, 0.1));
  values.push((await evaluateClassifier(model, [batch])).loss);
  optimizer.dispose();
  model.dispose();
  return values;
}

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  if (backend === "wasm") continue;
  for (const layer of ["BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"]) {
    Deno.test({
      name: `training a ResNet with ${layer} on ${backend} follows wasm${
        reason === null ? "" : ` (skipped: ${reason})`
      }`,
      ignore: reason !== null,
      async fn() {
        const [expected, measured] = [await losses("wasm", layer), await losses(backend, layer)];
        // Rounding differs between backends and is amplified by each update; a wrong gradient misses by percents.
        expected.forEach((value, step) => {
          assert.ok(
            Math.abs(measured[step]! - value) < 2e-4 * value,
            `step ${step}: ${measured[step]} is not ${value}`,
          );
        });
      },
    });
  }
}
