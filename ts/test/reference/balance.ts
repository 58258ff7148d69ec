import type { KeepPolicy } from '../../src/kernels/balance.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, fixedExponent, isFault, meanRow, unit, widen } from './canonical.ts';
import { philox64 } from './philox.ts';

export interface ReferenceBalance {
  labels: Int32Array;
  keep: Uint8Array;
  centrality: Float32Array;
  groups: number;
  edges: number;
  faults: Int32Array;
}

export interface ReferenceForest {
  first: Int32Array;
  second: Int32Array;
  dots: Float64Array;
}

interface Edge {
  first: number;
  second: number;
  dot: number;
}

/** Rows as compared; undefined for a fault. */
type Units = readonly (Float32Array | undefined)[];

const unitsOf = (matrix: Matrix): Units => widen(matrix).map((row) => (isFault(row) ? undefined : unit(row)));

function edgesOver(units: Units, threshold: number): Edge[] {
  const edges: Edge[] = [];
  for (const [first, a] of units.entries()) {
    for (let second = first + 1; second < units.length; second++) {
      const b = units[second];
      if (a === undefined || b === undefined) continue;
      const cosine = dot(a, b);
      if (cosine > threshold) edges.push({ first, second, dot: cosine });
    }
  }
  return edges;
}

/** The smallest member of each row's component. */
function components(rows: number, edges: readonly Edge[]): Int32Array {
  const labels = Int32Array.from({ length: rows }, (_, row) => row);
  for (const { first, second } of edges) {
    // The plainest union: relabel everything that had the larger label.
    const small = Math.min(labels[first]!, labels[second]!);
    const large = Math.max(labels[first]!, labels[second]!);
    if (small !== large) labels.set(labels.map((label) => (label === large ? small : label)));
  }
  return labels;
}

function membersOf(labels: Int32Array): Map<number, number[]> {
  const members = new Map<number, number[]>();
  for (const [row, label] of labels.entries()) members.set(label, [...(members.get(label) ?? []), row]);
  return members;
}

/** Likeness of the members of a group to its mean. */
function scoresOf(units: Units, group: readonly number[]): number[] {
  const own = group.map((row) => units[row]!);
  const mean = unit(meanRow(own, fixedExponent(units.length, 1)));
  return own.map((row) => (mean === undefined ? 0 : dot(row, mean)));
}

/** What the highest of stays, the first of several. */
function ranks(policy: KeepPolicy, group: readonly number[], scores: readonly number[]): (number | bigint)[] {
  if (typeof policy === 'object' && 'best' in policy) return group.map((row) => policy.best[row]!);
  if (typeof policy === 'object') return group.map((row) => philox64(policy.random, 48, row));
  // Two rows are equally far from their mean; only rounding could tell them apart.
  if (policy === 'first' || group.length === 2) return group.map(() => 0);
  return policy === 'hard' ? scores.map((score) => -score) : [...scores];
}

/** Splits a group at its weakest link until every member is near its mean. */
function splitWide(
  units: Units,
  group: readonly number[],
  edges: readonly Edge[],
  least: number,
): number[][] {
  if (group.length === 1 || scoresOf(units, group).every((score) => score >= least)) return [[...group]];
  const inside = edges.filter(({ first, second }) => group.includes(first) && group.includes(second));
  const own = inside.map(({ first, second, dot }) => ({
    first: group.indexOf(first),
    second: group.indexOf(second),
    dot,
  }));
  const weakest = kruskal(group.length, own).at(-1)!.dot;
  const parts = membersOf(
    components(
      group.length,
      own.filter((edge) => edge.dot > weakest),
    ),
  );
  return [...parts.values()].flatMap((part) => {
    const rows = part.map((place) => group[place]!);
    return splitWide(units, rows, inside, least);
  });
}

function kruskal(rows: number, edges: readonly Edge[]): Edge[] {
  const sorted = [...edges].sort((a, b) => b.dot - a.dot || a.first - b.first || a.second - b.second);
  const sets = Array.from({ length: rows }, (_, row) => row);
  const find = (row: number): number => (sets[row] === row ? row : find(sets[row]!));
  return sorted.filter(({ first, second }) => {
    const [a, b] = [find(first), find(second)];
    sets[a] = b;
    return a !== b;
  });
}

/** All pairs, the components of their graph, and of each the row that stays. */
export function balance(
  matrix: Matrix,
  threshold: number,
  policy: KeepPolicy = 'central',
  maxDiameter?: number,
): ReferenceBalance {
  const units = unitsOf(matrix);
  const edges = edgesOver(units, threshold);
  const labels = components(units.length, edges);
  if (maxDiameter !== undefined) {
    for (const group of membersOf(labels).values()) {
      if (group.length === 1) continue;
      for (const part of splitWide(units, group, edges, 1 - maxDiameter))
        for (const row of part) labels[row] = Math.min(...part);
    }
  }

  const members = membersOf(labels);
  const keep = new Uint8Array(units.length);
  const centrality = new Float32Array(units.length);
  for (const [label, group] of members) {
    if (group.length === 1) {
      keep[label] = 1;
      centrality[label] = units[label] === undefined ? 0 : 1;
      continue;
    }
    const scores = scoresOf(units, group);
    const rank = ranks(policy, group, scores);
    const best = rank.reduce((a, b) => (b > a ? b : a));
    keep[group[rank.indexOf(best)]!] = 1;
    for (const [index, row] of group.entries()) centrality[row] = scores[index]!;
  }
  const faults = Int32Array.from([...units.keys()].filter((row) => units[row] === undefined));
  return { labels, keep, centrality, groups: members.size, edges: edges.length, faults };
}

/** Kruskal's algorithm over all pairs above the floor. */
export function forest(matrix: Matrix, floor: number): ReferenceForest {
  const units = unitsOf(matrix);
  const edges = kruskal(units.length, edgesOver(units, floor));
  return {
    first: Int32Array.from(edges, (edge) => edge.first),
    second: Int32Array.from(edges, (edge) => edge.second),
    dots: Float64Array.from(edges, (edge) => edge.dot),
  };
}
