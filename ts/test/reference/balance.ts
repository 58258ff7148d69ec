import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, fixedExponent, isFault, meanRow, unit, widen } from './canonical.ts';

export interface ReferenceBalance {
  labels: Int32Array;
  keep: Uint8Array;
  centrality: Float32Array;
  groups: number;
  edges: number;
  faults: Int32Array;
}

/** All pairs, the components of their graph, and the row of each that is nearest to its mean. */
export function balance(matrix: Matrix, threshold: number): ReferenceBalance {
  const rows = widen(matrix);
  const units = rows.map((row) => (isFault(row) ? undefined : unit(row)));
  const labels = Int32Array.from(rows.keys());
  let edges = 0;
  for (let i = 0; i < rows.length; i++) {
    for (let j = i + 1; j < rows.length; j++) {
      const a = units[i];
      const b = units[j];
      if (a === undefined || b === undefined || !(dot(a, b) > threshold)) continue;
      edges++;
      // The plainest union: relabel everything that had the larger label.
      const small = Math.min(labels[i]!, labels[j]!);
      const large = Math.max(labels[i]!, labels[j]!);
      if (small !== large) labels.set(labels.map((label) => (label === large ? small : label)));
    }
  }

  const members = new Map<number, number[]>();
  for (const [row, label] of labels.entries()) members.set(label, [...(members.get(label) ?? []), row]);
  const keep = new Uint8Array(rows.length);
  const centrality = new Float32Array(rows.length);
  for (const [label, group] of members) {
    if (group.length === 1) {
      keep[label] = 1;
      centrality[label] = units[label] === undefined ? 0 : 1;
      continue;
    }
    const own = group.map((row) => units[row]!);
    const mean = unit(meanRow(own, fixedExponent(rows.length, 1)));
    const scores = own.map((row) => (mean === undefined ? 0 : dot(row, mean)));
    // Two rows are equally far from their mean; only rounding could tell them apart.
    const central = group.length === 2 ? 0 : scores.indexOf(Math.max(...scores));
    keep[group[central]!] = 1;
    for (const [index, row] of group.entries()) centrality[row] = scores[index]!;
  }
  const faults = Int32Array.from([...units.keys()].filter((row) => units[row] === undefined));
  return { labels, keep, centrality, groups: members.size, edges, faults };
}
