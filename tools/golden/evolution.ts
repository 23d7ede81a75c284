/** The group `evolution`: selection, ageing and the size of the space of genotypes. Whole numbers: no tolerance. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { operations, paretoFront, Population, tournamentSize, winner } from "../../lib/evolution/mod.ts";
import { active, arity, type GraphNode, initialNodes, usesX } from "../../lib/graph/mod.ts";
import { compare, type Comparison } from "./report.ts";

interface ParetoExample {
  scores: number[][];
  front: number[];
  average_winner: number;
  draws: { u: number; winner: number }[];
}

interface AgeingEvent {
  birth: number;
  score: number[];
  population_after: number[];
  accepted?: boolean;
  tournament?: number[];
  front?: number[];
  u?: number;
  parent?: number;
}

interface SpaceRow {
  intermediate_nodes: number;
  choices_of_last_node: string;
  ordered: string;
  commutative_arguments_unordered: string;
}

interface Reference {
  pareto: { examples: ParetoExample[] };
  ageing: { window: number; tournament_size: number; events: AgeingEvent[] };
  tournament_size: { population: number; size: number }[];
  /** Of the repository's copy; others may lack it. */
  space?: {
    counts: { all: SpaceRow[]; no_bwh: SpaceRow[] };
    two_nodes: { total: string; first_node_dead: string; x_not_an_ancestor_of_output: string };
  };
}

/** Compares every example of `folder`; no backend is needed. */
export async function checkEvolution(
  folder: string,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const reference: Reference = JSON.parse(await readFile(join(folder, "examples.json"), "utf8"));
  const { pareto, ageing, tournament_size: tournaments, space } = reference;
  return {
    comparisons: [
      ...pareto.examples.flatMap(checkPareto),
      ...checkAgeing(ageing),
      equal(
        "evolution/tournament/size",
        tournaments.map(({ population }) => tournamentSize(population)),
        tournaments.map(({ size }) => size),
      ),
      ...(space === undefined ? [] : checkSpace(space)),
    ],
    skipped: space === undefined ? ["the size of the space, which this folder does not have"] : [],
  };
}

function checkPareto({ scores, front, average_winner, draws }: ParetoExample, example: number): Comparison[] {
  const name = `evolution/pareto ${example}`;
  return [
    equal(`${name}/front`, paretoFront(scores), front),
    equal(`${name}/average winner`, [winner(scores, "average", 0)], [average_winner]),
    equal(
      `${name}/winner`,
      draws.map(({ u }) => winner(scores, "pareto", u)),
      draws.map((draw) => draw.winner),
    ),
  ];
}

/** The scripted run: who is alive after each birth, and who wins each tournament. */
function checkAgeing({ window, events }: Reference["ageing"]): Comparison[] {
  const population = new Population<null>(window);
  return events.flatMap(
    ({ birth, score, accepted = true, population_after, tournament, front, u, parent }) => {
      const name = `evolution/ageing ${birth}`;
      const comparisons: Comparison[] = [];
      if (tournament !== undefined) {
        const drawn = population.asOf(birth).filter(({ index }) => tournament.includes(index));
        const scores = drawn.map((member) => member.scores);
        comparisons.push(
          equal(`${name}/tournament`, drawn.map(({ index }) => index), tournament),
          equal(`${name}/front`, paretoFront(scores).map((place) => drawn[place]!.index), front!),
          equal(`${name}/winner`, [drawn[winner(scores, "pareto", u!)]!.index], [parent!]),
        );
      }
      if (accepted) population.add({ index: birth, genotype: null, scores: score });
      const alive = population.asOf(birth + 1).map(({ index }) => index);
      return [...comparisons, equal(`${name}/population`, alive, population_after)];
    },
  );
}

function checkSpace({ counts, two_nodes }: NonNullable<Reference["space"]>): Comparison[] {
  const count = (rows: SpaceRow[], usable: typeof operations, name: string) =>
    rows.map((row) => {
      const sizes = Array.from({ length: row.intermediate_nodes }, (_, k) => {
        const nodes = choices(usable, initialNodes.length + k);
        return { all: nodes.length, unordered: nodes.filter(isOrdered).length };
      });
      const product = (values: number[]) => values.reduce((all, value) => all * BigInt(value), 1n).toString();
      const measured = [
        String(sizes.at(-1)!.all),
        product(sizes.map(({ all }) => all)),
        product(sizes.map(({ unordered }) => unordered)),
      ];
      const expected = [row.choices_of_last_node, row.ordered, row.commutative_arguments_unordered];
      return equal(`evolution/${name} ${row.intermediate_nodes}/space`, measured, expected);
    });
  const firsts = choices(operations, initialNodes.length);
  const seconds = choices(operations, initialNodes.length + 1);
  const graphs = firsts.flatMap((first) => seconds.map((second) => ({ nodes: [first, second] })));
  const dead = graphs.filter((graph) => !active(graph).includes(initialNodes.length)).length;
  const constant = graphs.filter((graph) => !usesX(graph)).length;
  return [
    ...count(counts.all, operations, "all operations"),
    ...count(counts.no_bwh, operations.filter((one) => !("axes" in one && one.axes === "bwh")), "no bwh"),
    equal("evolution/two nodes/space", [graphs.length, dead, constant].map(String), [
      two_nodes.total,
      two_nodes.first_node_dead,
      two_nodes.x_not_an_ancestor_of_output,
    ]),
  ];
}

/** Every node that can stand after `before` others. */
function choices(usable: typeof operations, before: number): GraphNode[] {
  const places = Array.from({ length: before }, (_, index) => index);
  return usable.flatMap((operation) =>
    arity(operation.op) === 1
      ? places.map((input) => ({ ...operation, inputs: [input] }))
      : places.flatMap((a) => places.map((b) => ({ ...operation, inputs: [a, b] })))
  );
}

/** One of the two writings of an operation whose arguments can be exchanged. */
function isOrdered({ op, inputs: [a, b] }: GraphNode): boolean {
  return b === undefined || op === "Div" || a! <= b;
}

/** Numbers, or whole numbers too large for one as text: the same, or not. */
function equal<T extends number | string>(
  name: string,
  measured: readonly T[],
  expected: readonly T[],
): Comparison {
  const wrong = expected.map((value, i) => (measured[i] === value ? 0 : 1));
  if (measured.length !== expected.length) wrong.push(1);
  return compare(name, wrong, wrong.map(() => 0), [wrong.length], 0);
}
