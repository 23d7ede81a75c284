import { atFullShape, type Expression, extents, type Helper, PythonWriter } from "./_python.ts";
import type { NamedLayer } from "./compare.ts";
import { formula } from "./formula.ts";
import { active, batchMoments } from "./structure.ts";
import type { LayerGraph } from "./types.ts";
import { validate } from "./validate.ts";

/** What {@link pytorchModule} may be told. */
export interface PytorchOptions {
  /** The name of the layer, from which the class gets its own. Default: the layer's name, or "Layer". */
  readonly name?: string;
  /** The default of the module's `groups`, lowered by one until it divides the channels. Default 32. */
  readonly groups?: number;
  /** The default of the module's `eps`. Default: the layer's own, or 1e-5. */
  readonly epsilon?: number;
  /** The default of the module's `decay`, the weight of the old value in moving statistics. Default 0.9. */
  readonly decay?: number;
}

/** Formulas in doc strings are cut here. */
const longestFormula = 300;

/**
 * A layer as the text of a Python file that needs PyTorch only: `y = post(gamma * z + beta)`, [N, C, H, W] to
 * [N, C, H, W], for any number of channels. The class has one parameter [C] for each vector that the layer reads
 * (gamma, beta, v0, v1, tau) and one buffer [C] for each moment over the batch, both named as in this kit, nodes
 * numbered as in the graph; values and gradients follow the kit's numerical conventions, ties and kinks included.
 *
 * ```ts
 * import { publishedLayer, pytorchModule } from "@normlab/normlab/graph";
 *
 * const text = pytorchModule(publishedLayer("EvoNorm-B0"));
 * console.log(text.includes("class EvoNormB0(nn.Module)")); // true
 * ```
 *
 * @throws TypeError if the post graph has a moment over the batch, as it keeps no statistics; as {@link validate};
 * RangeError for groups, epsilon or decay out of range.
 */
export function pytorchModule(
  layer: LayerGraph | NamedLayer,
  options: PytorchOptions = {},
): string {
  const given: NamedLayer = "nodes" in layer ? { graph: layer, name: "Layer" } : layer;
  const { graph, post } = given;
  return write({ graph: validate(graph), ...(post !== undefined && { post: validate(post) }) }, {
    name: options.name ?? given.name,
    source: given.source,
    ...checkedDefaults({ epsilon: given.epsilon, ...options }),
  });
}

interface Layer {
  readonly graph: LayerGraph;
  readonly post?: LayerGraph;
}

interface Defaults {
  readonly groups: number;
  readonly epsilon: number;
  readonly decay: number;
}

function checkedDefaults(options: { [key in keyof Defaults]?: number | undefined }): Defaults {
  const { groups = 32, epsilon = 1e-5, decay = 0.9 } = options;
  if (!Number.isInteger(groups) || groups < 1) {
    throw new RangeError(`${refuse} 'groups' must be a whole number from 1: current 'groups' is ${groups}`);
  }
  if (!(epsilon > 0 && epsilon < 1)) {
    throw new RangeError(`${refuse} 'epsilon' must be between 0 and 1: current 'epsilon' is ${epsilon}`);
  }
  if (!(decay >= 0 && decay <= 1)) {
    throw new RangeError(`${refuse} 'decay' must be between 0 and 1: current 'decay' is ${decay}`);
  }
  return { groups, epsilon, decay };
}

const refuse = "Cannot write the PyTorch module as";

function write(
  { graph, post }: Layer,
  { name, source, groups, epsilon, decay }: Defaults & { name: string; source: string | undefined },
): string {
  if (post !== undefined && batchMoments(post).length > 0) {
    throw new TypeError(`${refuse} 'post' must have no moment over (b,w,h): current 'post' has one`);
  }
  const writer = new PythonWriter();
  const { body, vectors } = forwardBody(writer, { graph, post });
  const grouped = writer.helpers.has("group_mean") || writer.helpers.has("group_var");
  const moving = writer.statistics.length > 0;
  const settings = [
    ...(grouped ? [["groups", groups] as const] : []),
    ...(body.some((line) => line.includes("self.eps")) ? [["eps", epsilon] as const] : []),
    ...(moving ? [["decay", decay] as const] : []),
  ];
  const fields = settings.map(([key]) =>
    key === "groups"
      ? "self.groups = next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)"
      : `self.${key} = ${key}`
  );
  const created = vectors.map(({ name, start }) => `self.${name} = nn.Parameter(torch.${start}(channels))`);
  const buffers = writer.statistics.map(({ name, start }) =>
    `self.register_buffer("${name}", torch.${start}(channels))`
  );
  const className = classNameOf(name);
  const z = cut(formula(graph));
  return [
    `"""${plain(name)} as a PyTorch module, written by Normlab.${
      source === undefined ? "" : `\n\nSource: ${plain(source)}`
    }\n"""`,
    "import torch",
    "from torch import nn",
    ...[...helperTexts].filter(([helper]) => writer.helpers.has(helper)).map(([, text]) => `\n\n${text}`),
    "",
    "",
    `class ${className}(nn.Module):`,
    `    """${
      post ? "y = post(gamma * z + beta)" : "y = gamma * z + beta"
    } [N, C, H, W] from x [N, C, H, W].\n`,
    `    z = ${z}`,
    ...(post ? [`    post(x) = ${cut(formula(post).replaceAll("v0", "tau"))}`] : []),
    `    """`,
    "",
    `    def __init__(self, channels${
      settings.map(([key, value]) => `, ${key}=${python(value)}`).join("")
    }):`,
    ...indent(["super().__init__()", ...fields, ...created, ...buffers], 8),
    "",
    "    def forward(self, x):",
    ...indent(body, 8),
    ...(moving ? ["", ...indent(followText.split("\n"), 4)] : []),
    "",
  ].join("\n");
}

interface Vector {
  readonly name: string;
  readonly start: "zeros" | "ones";
}

/** The lines of `forward`, and the parameters that they read. */
function forwardBody(
  writer: PythonWriter,
  { graph, post }: { graph: LayerGraph; post: LayerGraph | undefined },
): { body: string[]; vectors: Vector[] } {
  const reads = (one: LayerGraph | undefined, initial: number) =>
    one !== undefined && active(one).includes(initial);
  const [zero, v0, v1] = [1, 2, 3];
  const vectors: Vector[] = [
    { name: "gamma", start: "ones" },
    { name: "beta", start: "zeros" },
    ...(reads(graph, v0) ? [{ name: "v0", start: "zeros" } as const] : []),
    ...(reads(graph, v1) || reads(post, v1) ? [{ name: "v1", start: "ones" } as const] : []),
    ...(reads(post, v0) ? [{ name: "tau", start: "zeros" } as const] : []),
  ];
  const views = vectors.map(({ name }) => `${name} = self.${name}.view(1, -1, 1, 1)`);
  if (reads(graph, zero) || reads(post, zero)) views.push("zero = x.new_zeros(1, 1, 1, 1)");

  const x = writer.given("x", extents.full);
  const vector = (name: string) => writer.given(name, extents.perChannel);
  const nothing = writer.given("zero", extents.scalar);
  for (const reserved of ["z", "y", "self", "torch", "nn"]) writer.given(reserved, extents.full);
  const z = writer.assign("z", writer.graph(graph, [x, nothing, vector("v0"), vector("v1")]));
  const affine: Expression = writer.operation({ op: "Add" }, [
    writer.operation({ op: "Mul" }, [vector("gamma"), z]),
    vector("beta"),
  ]);
  if (post === undefined) {
    return { body: [...views, ...writer.lines, `return ${atFullShape(affine)}`], vectors };
  }
  const y = writer.assign("y", { ...affine, text: atFullShape(affine), extent: extents.full });
  const output = writer.graph(post, [y, nothing, vector("tau"), vector("v1")]);
  return { body: [...views, ...writer.lines, `return ${atFullShape(output)}`], vectors };
}

/** A class name from any name: EvoNorm-B0 is EvoNormB0. */
function classNameOf(name: string): string {
  const words = name.split(/[^A-Za-z0-9]+/).filter((word) => word !== "");
  const joined = words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join("");
  const usable = /^[A-Za-z]/.test(joined) && !["None", "True", "False"].includes(joined);
  return usable ? joined : `Layer${joined}`;
}

/** Text that stays within a doc string: one line, without quotes and backslashes. */
function plain(text: string): string {
  return cut(text.replaceAll(/[\\"\p{C}\s]+/gu, " ").trim());
}

function cut(text: string): string {
  return text.length > longestFormula ? `${text.slice(0, longestFormula)}...` : text;
}

function python(value: number): string {
  return value > 0 && value < 1e-2 ? value.toExponential() : String(value);
}

function indent(lines: readonly string[], by: number): string[] {
  return lines.map((line) => line === "" ? "" : " ".repeat(by) + line);
}

const helperTexts: ReadonlyMap<Helper, string> = new Map([
  [
    "safe_div",
    `def safe_div(a, b, eps):
    """a / b with abs(b) no smaller than eps; zero counts as positive."""
    sign = 1 - 2 * (b < 0).to(b.dtype)
    return a / (sign * torch.clamp(torch.abs(b), min=eps))`,
  ],
  [
    "safe_log",
    `def safe_log(a, eps):
    """The signed logarithm, 0 at 0."""
    return torch.sign(a) * torch.log(torch.abs(a) + eps)`,
  ],
  [
    "safe_sqrt",
    `def safe_sqrt(a, eps):
    """The signed root, 0 at 0."""
    return torch.sign(a) * torch.sqrt(torch.abs(a) + eps)`,
  ],
  [
    "group_mean",
    `def group_mean(a, groups):
    """The mean over space and each group's channels, [N, C, 1, 1]."""
    n, c, h, w = a.shape
    mean = a.reshape(n, groups, c // groups, h, w).mean(dim=(2, 3, 4))
    return mean.repeat_interleave(c // groups, dim=1).view(n, c, 1, 1)`,
  ],
  [
    "group_var",
    `def group_var(a, groups):
    """The biased variance over space and each group's channels, [N, C, 1, 1]."""
    n, c, h, w = a.shape
    variance = a.reshape(n, groups, c // groups, h, w).var(dim=(2, 3, 4), unbiased=False)
    return variance.repeat_interleave(c // groups, dim=1).view(n, c, 1, 1)`,
  ],
]);

const followText = `@torch.no_grad()
def follow(self, statistic, value):
    """Moves a moving statistic [C] towards the batch's."""
    statistic.mul_(self.decay).add_(value.reshape(-1), alpha=1 - self.decay)`;
