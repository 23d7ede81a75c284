/** `normlab graph`: looking at layer graphs, comparing them, taking them elsewhere. */
import { writeAtomically } from "../lib/experiment/mod.ts";
import { draw } from "../lib/graph/mod.ts";
import { type Command, type CommandContext, parse, print, RESULTS, UsageError } from "./_cli.ts";
import { storedAccuracies } from "./_graph_accuracy.ts";
import { exportText, formatOf, FORMATS, simplifiedLayer } from "./_graph_export.ts";
import { layerFrom, layerHelp } from "./_graph_source.ts";
import { compareText, showText } from "./_graph_text.ts";

export const graphCommand: Command = {
  name: "graph",
  usage: "show LAYER | compare LAYER LAYER | export LAYER [options]",
  summary: "Look at layer graphs, compare them, export them",
  help: `  show LAYER [--svg FILE] [--results DIR]
      formula, LaTeX, nodes, batch independence, which published layers it equals and when, stored accuracy,
      JSON, and a drawing: as text, or the paper's picture in FILE
  compare LAYER LAYER [--results DIR]
      formulas, whether they compute the same, the largest difference on probe inputs in training and in
      inference, up to which factor, offset or condition one is the other, stored accuracies
  export LAYER [--format ${FORMATS.join("|")}] [--out FILE] [--simplify]
      to FILE, else to the terminal; without --format by the ending of FILE (.json .txt .tex .py .svg).
      pytorch is a module that needs torch only; normActivationLayer of lib/layers is the TensorFlow.js layer

${layerHelp}
  --results DIR   where results are (default results)`,
  run([action, ...rest], context) {
    const run = action === undefined ? undefined : actions[action];
    if (run === undefined) {
      throw new UsageError(
        `${action === undefined ? "An action must be named" : `There is no action '${action}'`}: ${
          Object.keys(actions).join(", ")
        }`,
      );
    }
    run(rest, context);
    return Promise.resolve(0);
  },
};

const actions: Readonly<Record<string, (args: readonly string[], context: CommandContext) => void>> = {
  show(args, { experiments }) {
    const { values, positionals } = parse(args, { svg: { type: "string" }, ...RESULTS }, ["layer"]);
    const layer = layerFrom(positionals[0]);
    const accuracies = storedAccuracies(layer, experiments, values.results);
    const { svg } = values;
    if (svg !== undefined) writeAtomically(svg, draw(layer.graph));
    print(showText(layer, accuracies, svg === undefined));
    if (svg !== undefined) print("", `The drawing: ${svg}`);
  },
  compare(args, { experiments }) {
    const { values, positionals } = parse(args, RESULTS, ["layer", "layer"]);
    const layers = [layerFrom(positionals[0]), layerFrom(positionals[1], "A second layer")] as const;
    print(
      compareText(layers, layers.map((layer) => storedAccuracies(layer, experiments, values.results))),
    );
  },
  export(args) {
    const { values, positionals } = parse(args, {
      format: { type: "string" },
      out: { type: "string" },
      simplify: { type: "boolean", default: false },
    }, ["layer"]);
    const format = formatOf(values.format, values.out);
    if (format === undefined) {
      throw new UsageError(
        values.format === undefined
          ? `--format must be given where --out does not end in .json, .txt, .tex, .py or .svg: ${
            FORMATS.join(", ")
          }`
          : `There is no format '${values.format}': there are ${FORMATS.join(", ")}`,
      );
    }
    const given = layerFrom(positionals[0]);
    const text = exportText(values.simplify ? simplifiedLayer(given) : given, format);
    if (values.out === undefined) return print(text.trimEnd());
    writeAtomically(values.out, `${text.trimEnd()}\n`);
    print(`${given.name} as ${format}: ${values.out}`);
  },
};
