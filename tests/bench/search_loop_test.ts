import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Contender } from "../../bench/_contender.ts";
import { publishedLayer, pytorchModule } from "../../lib/graph/mod.ts";
import { anchors } from "../../lib/models/mod.ts";

const findTorch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
const python = [Deno.env.get("NORMLAB_TORCH_PYTHON"), "python3"].find((command) =>
  command !== undefined && command !== "" && spawnSync(command, ["-c", findTorch]).status === 0
);
const ignore = python === undefined;
const reason = ignore ? " (skipped: no python3 with torch, NORMLAB_TORCH_PYTHON names one)" : "";

for (const form of ["smoke", "laptop"] as const) {
  Deno.test({
    name: `the search's loop in PyTorch trains as many parameters, in the stages asked for, ${form}${reason}`,
    ignore,
    async fn() {
      const folder = mkdtempSync(join(tmpdir(), "search-loop-"));
      const peer = new Contender({
        name: "PyTorch",
        command: python!,
        args: [fileURLToPath(new URL("../../bench/peers/search_loop.py", import.meta.url)), "channels_last"],
      });
      try {
        const file = join(folder, "images");
        const count = 12, side = 32;
        writeFileSync(file, Uint8Array.from({ length: count * (side * side * 3 + 1) }, (_, k) => k % 7));
        const sizes = { batch: 4, crop: 16, testCrop: 32, steps: 4, stabilityBatch: 8, classes: 10 };
        const rates = { rate: 0.1, weightDecay: 1e-4, schedule: "cosine" };
        const split = { file, count, side };
        const normal = { mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] };
        await peer.ask({ form, ...sizes, ...rates, ...normal, train: split, held: split });
        const steps = [{ steps: 2, evaluated: true }, { steps: 1, evaluated: false }];
        const { seconds, parameters } = await peer.ask<
          { seconds: Record<string, number>; parameters: number[] }
        >({
          text: pytorchModule(publishedLayer("EvoNorm-S0").graph, { groups: 4 }),
          anchors: ["resnet", "mobilenet"],
          stages: [{ name: "quality", anchors: steps }, { name: "stability", norms: 3 }],
        });
        assert.deepEqual(Object.keys(seconds), ["quality", "stability"]);
        const expected = [anchors.resnet, anchors.mobilenet].map((one) => one[form].parameters.EvoNorm);
        assert.deepEqual(parameters, expected);
      } finally {
        await peer.close();
        rmSync(folder, { recursive: true });
      }
    },
  });
}
