/** What the parts of an attention kernel share: its function's variables, and where things are in the working space. */
import {
  choose,
  type Code,
  countUp,
  type FunctionBuilder,
  i32,
  type Local,
  ModuleBuilder,
  type Operand,
  sequence,
  set,
  variables,
} from "../wasm/mod.ts";
import { FLOAT, type KernelSettings, stripBytes } from "./_wasm_products.ts";

/** What is worked on at a time. */
export interface Panels {
  /** Queries of a row of tiles: a multiple of the strip's. */
  readonly tileQueries: number;
  /** Keys of a tile of a list, a power of two up to 32; null without a list. */
  readonly tileKeys: number | null;
  /** Keys of a panel at most; with a list a multiple of the tile's. */
  readonly panelKeys: number;
}

/** Of one head: addresses (`starts`, `columns`, `edges` and `patterns` are those of a tile list), sizes, and the scores' scale over ln 2. */
export const KERNEL_PARAMETERS = [
  "q",
  "k",
  "v",
  "output",
  "lse",
  "rho",
  "residual",
  "scratch",
  "starts",
  "columns",
  "edges",
  "patterns",
  "queries",
  "keys",
  "scale",
] as const;

/** The kernel's function under construction. */
export class KernelFrame {
  readonly module = new ModuleBuilder();
  readonly settings: KernelSettings;
  readonly panels: Panels;
  readonly run: FunctionBuilder;
  readonly parameter: Readonly<Record<typeof KERNEL_PARAMETERS[number], Local>>;
  /** The row of tiles, its first query, its strips; a strip and the address of its state. */
  readonly tileRow: Local;
  readonly row: Local;
  readonly strips: Local;
  readonly strip: Local;
  readonly state: Local;
  /** Bytes of a strip's row: a number for each of its queries; and of a query's or key's row. */
  readonly pitch: number;
  readonly rowBytes: number;
  /** Addresses of the current strip's sums [dim][strip] and statistics [2][strip]; its state begins with the queries [dim][strip]. */
  readonly sums: Code;
  readonly statistics: Code;
  /** The address of a strip's scores with a panel, [keys][strip]. */
  readonly scores: Code;
  #scratchBytes = 0;
  readonly #states: number;
  readonly #stateBytes: number;

  constructor(settings: KernelSettings, panels: Panels) {
    [this.settings, this.panels] = [settings, panels];
    const { dim, strip } = settings;
    this.run = this.module.function("run", KERNEL_PARAMETERS.map((name) => name === "scale" ? "f32" : "i32"));
    this.parameter = Object.fromEntries(
      KERNEL_PARAMETERS.map((name, index) => [name, this.run.params[index]!]),
    ) as typeof this.parameter;
    const at = variables(this.run, "i32", "tileRow", "row", "strips", "strip", "state");
    [this.tileRow, this.row, this.strips, this.strip, this.state] = [
      at.tileRow,
      at.row,
      at.strips,
      at.strip,
      at.state,
    ];
    this.pitch = stripBytes(strip);
    this.rowBytes = dim * FLOAT;
    this.sums = i32.add(this.state, dim * this.pitch);
    this.statistics = i32.add(this.state, 2 * dim * this.pitch);
    this.#stateBytes = (2 * dim + 2) * this.pitch;
    this.#states = this.take(panels.tileQueries / this.queries * this.#stateBytes);
    // Blocks of rows may begin before the panel's first key and end behind its last one.
    const scores = this.take((panels.panelKeys + 2 * strip.rows + 4) * this.pitch);
    this.scores = this.scratch(scores + strip.rows * this.pitch);
  }

  /** Queries of a strip. */
  get queries(): number {
    return this.pitch / FLOAT;
  }

  /** Bytes of the working space. */
  get scratchBytes(): number {
    return this.#scratchBytes;
  }

  /** An offset in the working space. */
  take(bytes: number): number {
    const offset = this.#scratchBytes;
    this.#scratchBytes += Math.ceil(bytes / 64) * 64;
    return offset;
  }

  /** The address at an offset in the working space. */
  scratch(offset: number): Code {
    return i32.add(this.parameter.scratch, offset);
  }

  /** Runs code for each strip of the row of tiles. */
  eachStrip(body: Code): Code {
    return sequence(
      set(this.state, this.scratch(this.#states)),
      countUp(
        this.strip,
        0,
        this.strips,
        1,
        sequence(body, set(this.state, i32.add(this.state, this.#stateBytes))),
      ),
    );
  }
}

/** The smaller of two numbers with signs. */
export function smaller(a: Operand, b: Operand): Code {
  return choose("i32", i32.ltS(a, b), a, b);
}
