import { createHash } from "node:crypto";
import { probes } from "./_probes.ts";
import { evaluate } from "./evaluate.ts";
import { canonical } from "./simplify.ts";
import type { LayerGraph } from "./types.ts";

/** Hashes are this many hexadecimal digits of sha256: 64 bits. */
const digits = 16;

/** The hash of a graph's canonical form: equal for writings that {@link canonical} makes one. 16 hex digits. */
export function canonicalHash(graph: LayerGraph): string {
  return sha256(JSON.stringify(canonical(graph)));
}

/**
 * The hash of what a graph computes: its outputs z on fixed probe inputs in training mode, rounded to 2^-30 (1e-9)
 * of their largest magnitude. Equal hash = the same layer under another name, not worth training again. Scale
 * counts: z and 2z differ. A graph with an output that is not finite has the hash of its canonical form. 16 hex digits.
 */
export function functionalHash(graph: LayerGraph): string {
  const reduced = canonical(graph);
  const outputs = probes().map((probe) => evaluate(reduced, probe).z);
  const scale = outputs.reduce((most, z) => z.reduce((m, value) => Math.max(m, Math.abs(value)), most), 0);
  if (!Number.isFinite(scale)) return sha256(`not finite ${JSON.stringify(reduced)}`);
  const steps = outputs.flatMap((z) => Array.from(z, (value) => Math.round(value * resolution(scale)) | 0));
  return sha256(scale.toExponential(8), Int32Array.from(steps));
}

// A power of two: simple fractions of the largest magnitude then fall on a step, never on the edge of two.
const resolution = (scale: number) => scale > 0 ? 2 ** 30 / scale : 0;

function sha256(text: string, numbers?: Int32Array): string {
  const hash = createHash("sha256").update(text);
  if (numbers) hash.update(numbers);
  return hash.digest("hex").slice(0, digits);
}
