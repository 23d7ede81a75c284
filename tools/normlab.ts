/**
 * The command line: `deno task normlab COMMAND`. Exit codes: 0 done, 1 something failed, 2 wrong usage,
 * 130 stopped.
 *
 * @module
 */
import process from "node:process";
import { type Command, loadRegistry, UsageError } from "./_cli.ts";
import { graphCommand } from "./_graph_command.ts";
import { listCommand, reportCommand, showCommand } from "./_read_commands.ts";
import { reproduceCommand } from "./_reproduce_command.ts";
import { runCommand } from "./_run_command.ts";
import { searchCommand } from "./_search_command.ts";
import { verifyCommand } from "./_verify_command.ts";

const commands: readonly Command[] = [
  listCommand,
  runCommand,
  showCommand,
  reportCommand,
  reproduceCommand,
  verifyCommand,
  graphCommand,
  searchCommand,
];

/** Runs the command line and returns the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    console.log(overview());
    return name === undefined ? 2 : 0;
  }
  const command = commands.find((one) => one.name === name);
  if (command === undefined) {
    const names = commands.map((one) => one.name).join(", ");
    throw new UsageError(`There is no command '${name}': there are ${names}`);
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    console.log(`${command.summary}\n\nUsage: normlab ${command.name} ${command.usage}\n\n${command.help}`);
    return 0;
  }
  const { registry, others } = takeRegistry(rest);
  return await command.run(others, { experiments: await loadRegistry(registry), signal: stopSignal() });
}

function overview(): string {
  const width = Math.max(...commands.map((command) => command.name.length));
  const lines = commands.map((command) => `  ${command.name.padEnd(width)}  ${command.summary}`);
  return `Usage: normlab COMMAND [options]\n\n${lines.join("\n")}\n\nnormlab COMMAND --help says more.`;
}

/** `--registry FILE` replaces the kit's experiments by those of another module: for tests, so not in the help. */
function takeRegistry(args: readonly string[]): { registry: string | undefined; others: string[] } {
  const others = [...args];
  const at = others.indexOf("--registry");
  const registry = at === -1 ? undefined : others.splice(at, 2)[1];
  return { registry, others };
}

/** Aborted by the first Ctrl+C; the second ends the program as usual. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = () => {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
    controller.abort(
      new StoppedError("Stopped. What was finished is stored: the same command goes on from there."),
    );
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return controller.signal;
}

class StoppedError extends Error {
  override readonly name = "StoppedError";
}

/** Says what went wrong; the stack only where the message does not explain itself. */
function report(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`${error.message}\n\nnormlab help shows how it is used.`);
    return 2;
  }
  if (error instanceof StoppedError) {
    console.error(error.message);
    return 130;
  }
  const expected = error instanceof Error && error.message.startsWith("Cannot ");
  console.error(expected ? error.message : error);
  return 1;
}

if (import.meta.main) {
  // The handlers of Ctrl+C would keep the program alive.
  process.exit(await main(process.argv.slice(2)).catch(report));
}
