/** Turns the kernel's messages into the outputs of cells. */

import type { Message } from "./_kernel.ts";
import { type CodeCell, joined, type Json, lines, type Output } from "./_notebook.ts";

/**
 * Collects outputs. A message belongs to the cell whose request it answers, not to the one that runs now: outputs that
 * come late still find their cell.
 */
export class OutputCollector {
  readonly #cells = new Map<string, CodeCell>();
  readonly #displays = new Map<string, Output[]>();
  readonly #clearNext = new Set<CodeCell>();

  /** From now on answers to `request` are outputs of `cell`. */
  follow(request: string, cell: CodeCell): void {
    this.#cells.set(request, cell);
  }

  /** Takes a message in. */
  take({ type, parent, content }: Message): void {
    if (type === "update_display_data") this.#update(content);
    const cell = this.#cells.get(parent);
    if (!cell) return;
    if (type === "clear_output") {
      if (content["wait"]) this.#clearNext.add(cell);
      else cell.outputs = [];
    } else if (type === "execute_reply") {
      cell.execution_count = content["execution_count"] as number;
    } else {
      const output = toOutput(type, content);
      if (output) this.#add(cell, output, displayId(content));
    }
  }

  #add(cell: CodeCell, output: Output, display: string | undefined): void {
    if (this.#clearNext.delete(cell)) cell.outputs = [];
    const last = cell.outputs.at(-1);
    if (
      output.output_type === "stream" && last?.output_type === "stream" && last["name"] === output["name"]
    ) {
      last["text"] = lines(joined(last["text"] as string[]) + joined(output["text"] as string[]));
      return;
    }
    cell.outputs.push(output);
    if (display !== undefined) this.#displays.set(display, [...this.#displays.get(display) ?? [], output]);
  }

  /** A display's new content replaces the old one wherever it was shown, in earlier cells too. */
  #update(content: Json): void {
    for (const output of this.#displays.get(displayId(content) ?? "") ?? []) {
      output["data"] = bundle(content["data"] as Json);
      output["metadata"] = content["metadata"] ?? {};
    }
  }
}

function toOutput(type: string, content: Json): Output | undefined {
  const metadata = content["metadata"] ?? {};
  switch (type) {
    case "stream":
      return { output_type: type, name: content["name"], text: lines(content["text"] as string) };
    case "display_data":
      return { output_type: type, data: bundle(content["data"] as Json), metadata };
    case "execute_result": {
      const { execution_count } = content;
      return { output_type: type, data: bundle(content["data"] as Json), metadata, execution_count };
    }
    case "error": {
      const { ename, evalue, traceback } = content;
      return { output_type: type, ename, evalue, traceback };
    }
    default:
      return undefined;
  }
}

function displayId(content: Json): string | undefined {
  return (content["transient"] as { display_id?: string } | undefined)?.display_id;
}

/** Texts become lists of lines; JSON and pictures stay. */
function bundle(data: Json): Json {
  const isText = (type: string) => type.startsWith("text/") || type === "image/svg+xml";
  return Object.fromEntries(
    Object.entries(data).map(([type, value]) => [
      type,
      isText(type) && typeof value === "string" ? lines(value) : value,
    ]),
  );
}
