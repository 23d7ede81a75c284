/** A schedule as WebGPU compute shaders for one shape. */
import type { KernelShape } from "./_wasm_layout.ts";
import { partialCount, passShader } from "./_wgsl_pass.ts";
import { plan } from "./_wgsl_plan.ts";
import { rowsShader } from "./_wgsl_rows.ts";
import { geometryOf, type Shader, type ShaderContext, type WgslBinding } from "./_wgsl_shader.ts";
import type { Schedule } from "./schedule.ts";

export type { WgslBinding } from "./_wgsl_shader.ts";

/** One dispatch of a compute shader. */
export interface WgslDispatch {
  /** The shader; its entry point is `main`, its buffers are those of group 0. */
  readonly code: string;
  readonly workgroups: readonly [number, number, number];
  /** The buffers, in the order of their binding numbers. */
  readonly bindings: readonly WgslBinding[];
}

/** A kernel's dispatches, in order, and how large its own buffers must be. */
export interface WgslKernel {
  readonly dispatches: readonly WgslDispatch[];
  /** Numbers of float32 in the buffers `rows`, `partials` and `saved`; 0 where there is none. */
  readonly sizes: { readonly rows: number; readonly partials: number; readonly saved: number };
}

/** Choices of how shaders are written. */
export interface WgslOptions {
  /** How many storage buffers a shader may use, at least 6; default 8, the least that WebGPU guarantees. */
  readonly mostBuffers?: number;
}

const LEAST_BUFFERS = 6;

/**
 * Writes the shaders of a scheduled program. Images are float32 [N, H, W, C], vectors [C]; buffers are named as a
 * program names its inputs, and `out:` and the name of an image or vector written. Only the program counts, not its
 * phases: on a GPU every dispatch is a barrier over the batch.
 *
 * @throws RangeError if fewer storage buffers are allowed than a kernel may need
 */
export function wgslKernel(
  { program }: Pick<Schedule, "program">,
  shape: KernelShape,
  { mostBuffers = 8 }: WgslOptions = {},
): WgslKernel {
  if (mostBuffers < LEAST_BUFFERS) {
    throw new RangeError(
      `Cannot write shaders as 'mostBuffers' must be at least ${LEAST_BUFFERS}: current value is ${mostBuffers}`,
    );
  }
  const context = { program, plan: plan(program, shape), shape, geometry: geometryOf(shape) };
  const direct = dispatchesOf({ ...context, packed: null });
  const fits = direct.every(({ bindings }) => bindings.length <= mostBuffers);
  const partials = Math.max(
    0,
    ...context.plan.steps.map((step) =>
      step.kind === "pass" ? partialCount(step, { ...context, packed: null }) : 0
    ),
  );
  const sizes = { rows: context.plan.rows, partials, saved: context.plan.saved };
  if (fits) return { dispatches: direct, sizes };

  // Too many vectors to bind each: they are gathered among the rows first, and scattered from there at the end.
  const read = program.values.flatMap(({ op, full, name }) =>
    op === "Input" && !full && !name!.startsWith("saved") ? [name!] : []
  );
  const written = program.vectors.map(({ name }) => `out:${name}`);
  const packed = new Map(
    [...read, ...written].map((name, index) => [name, sizes.rows + index * shape.channels]),
  );
  return {
    dispatches: [
      ...copies(read, packed, shape, mostBuffers - 1),
      ...dispatchesOf({ ...context, packed }),
      ...copies(written, packed, shape, mostBuffers - 1),
    ],
    sizes: { ...sizes, rows: sizes.rows + packed.size * shape.channels },
  };
}

function dispatchesOf(context: ShaderContext): WgslDispatch[] {
  return context.plan.steps.map((step): WgslDispatch => {
    const { shader, threads, workgroups }: {
      shader: Shader;
      threads: number;
      workgroups: [number, number, number];
    } = step.kind === "pass" ? passShader(context, step) : rowsShader(context, step);
    return { code: shader.text(threads), workgroups, bindings: shader.bindings };
  });
}

/** Copies vectors to their places among the rows, or those written from there. */
function copies(
  names: readonly string[],
  places: ReadonlyMap<string, number>,
  { channels }: KernelShape,
  atOnce: number,
): WgslDispatch[] {
  const threads = 64;
  return Array.from({ length: Math.ceil(names.length / atOnce) }, (_, index) => {
    const some = names.slice(index * atOnce, (index + 1) * atOnce);
    const out = some[0]!.startsWith("out:");
    const access = (written: boolean) => written ? "read_write" as const : "read" as const;
    const bindings: WgslBinding[] = [
      { name: "rows", access: access(!out) },
      ...some.map((name) => ({ name, access: access(out) })),
    ];
    const code = [
      ...bindings.map(({ access }, at) =>
        `@group(0) @binding(${at}) var<storage, ${access}> b${at}: array<f32>;`
      ),
      `@compute @workgroup_size(${threads})`,
      "fn main(@builtin(global_invocation_id) id: vec3u) {",
      `if (id.x >= ${channels}u) { return; }`,
      ...some.map((name, at) => {
        const [vector, row] = [`b${at + 1}[id.x]`, `b0[${places.get(name)!}u + id.x]`];
        return out ? `${vector} = ${row};` : `${row} = ${vector};`;
      }),
      "}",
      "",
    ].join("\n");
    return { code, workgroups: [Math.ceil(channels / threads), 1, 1], bindings };
  });
}
