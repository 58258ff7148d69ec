import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, FixedSum, fixedExponent, meanRow, roundEven, unit, widen } from './canonical.ts';
import { philox64, scaleDraw } from './philox.ts';

export interface ReferenceKmeansOptions {
  clusters: number;
  batch: number;
  spherical: boolean;
  init: 'k-means++' | 'random' | Float32Array;
  iterations: number;
  tolerance: number;
  seed: number;
}

export interface ReferenceKmeans {
  centroids: Float32Array;
  labels: Int32Array;
  counts: Int32Array;
  inertia: Float64Array;
  iterations: Int32Array;
}

/** Lloyd's k-means, problem by problem. */
export function kmeans(matrix: Matrix, options: ReferenceKmeansOptions): ReferenceKmeans {
  const { batch, spherical, clusters } = options;
  const rows = widen(matrix).map((row) => (spherical ? unit(row)! : row));
  const count = rows.length / batch;
  const problems = Array.from({ length: batch }, (_, index) =>
    solve(rows.slice(index * count, (index + 1) * count), index, options),
  );
  return {
    centroids: Float32Array.from(problems.flatMap(({ centroids }) => centroids.flatMap((row) => [...row]))),
    labels: Int32Array.from(problems.flatMap(({ labels }) => labels)),
    counts: Int32Array.from(problems.flatMap(({ labels }) => histogram(labels, clusters))),
    inertia: Float64Array.from(problems, (problem) => problem.inertia),
    iterations: Int32Array.from(problems, (problem) => problem.iterations),
  };
}

function solve(rows: readonly Float32Array[], problem: number, options: ReferenceKmeansOptions) {
  const { clusters, spherical, tolerance } = options;
  const elements = rows.map((row) => row.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0));
  const exponent = fixedExponent(rows.length, spherical ? 1 : Math.max(...elements));

  let centroids = start(rows, problem, options);
  let labels = assign(rows, centroids, spherical);
  let iterations = 0;
  while (iterations < options.iterations) {
    reseed(labels, clusters, distances(rows, centroids, labels, spherical));
    centroids = centroids.map((old, centre) => {
      const mean = meanRow(
        rows.filter((_, row) => labels[row] === centre),
        exponent,
      );
      return spherical ? (unit(mean) ?? old) : mean;
    });
    iterations++;
    const before = labels;
    labels = assign(rows, centroids, spherical);
    if (labels.filter((label, row) => label !== before[row]).length <= tolerance * rows.length) break;
  }

  const last = distances(rows, centroids, labels, spherical);
  const sum = new FixedSum(fixedExponent(rows.length, spherical ? 2 : Math.max(...last)));
  for (const distance of last) sum.add(distance);
  return { centroids, labels, inertia: sum.value, iterations };
}

/** Higher is nearer, and orders the centres by distance. */
function nearness(row: Float32Array, centre: Float32Array): number {
  return dot(row, centre) - dot(centre, centre) / 2;
}

function square(row: Float32Array, centre: Float32Array): number {
  return Math.max(0, dot(row, row) - 2 * nearness(row, centre));
}

function start(
  rows: readonly Float32Array[],
  problem: number,
  { clusters, spherical, init, seed }: ReferenceKmeansOptions,
): Float32Array[] {
  const dim = rows[0]!.length;
  if (init instanceof Float32Array) {
    return Array.from({ length: clusters }, (_, centre) => {
      const from = (problem * clusters + centre) * dim;
      const row = init.slice(from, from + dim);
      return spherical ? unit(row)! : row;
    });
  }
  if (init === 'random') {
    const draws = rows.map((_, row) => philox64(seed, 2, problem * rows.length + row));
    const order = [...rows.keys()].sort((i, j) =>
      draws[i]! < draws[j]! ? -1 : draws[i]! > draws[j]! ? 1 : i - j,
    );
    return order.slice(0, clusters).map((row) => rows[row]!);
  }
  const draw = (step: number, bound: bigint) =>
    scaleDraw(philox64(seed, 1, problem * clusters + step), bound);
  const chosen = [Number(draw(0, BigInt(rows.length)))];
  let weights = rows.map(() => Number.POSITIVE_INFINITY);
  while (chosen.length < clusters) {
    const newest = rows[chosen.at(-1)!]!;
    weights = weights.map((weight, row) => Math.min(weight, square(rows[row]!, newest)));
    const scale = 2 ** fixedExponent(rows.length, Math.max(...weights));
    const fixed = weights.map((weight) => BigInt(roundEven(weight * scale)));
    const total = fixed.reduce((sum, weight) => sum + weight, 0n);
    if (total === 0n) {
      chosen.push([...rows.keys()].find((row) => !chosen.includes(row))!);
      continue;
    }
    const target = draw(chosen.length, total);
    let running = 0n;
    chosen.push(fixed.findIndex((weight) => (running += weight) > target));
  }
  return chosen.map((row) => rows[row]!);
}

function assign(
  rows: readonly Float32Array[],
  centroids: readonly Float32Array[],
  spherical: boolean,
): number[] {
  return rows.map((row) => {
    const scores = centroids.map((centre) => (spherical ? dot(row, centre) : nearness(row, centre)));
    return scores.indexOf(scores.reduce((best, score) => Math.max(best, score)));
  });
}

function distances(
  rows: readonly Float32Array[],
  centroids: readonly Float32Array[],
  labels: readonly number[],
  spherical: boolean,
): number[] {
  return rows.map((row, index) => {
    const centre = centroids[labels[index]!]!;
    return spherical ? Math.max(0, 1 - dot(row, centre)) : square(row, centre);
  });
}

/** Every centre without a row takes the farthest row that is not the last of its own; changes `labels`. */
function reseed(labels: number[], clusters: number, distance: readonly number[]): void {
  const counts = histogram(labels, clusters);
  const order = [...labels.keys()].sort((i, j) => distance[j]! - distance[i]! || i - j);
  for (const row of order) {
    const empty = counts.indexOf(0);
    if (empty === -1) return;
    const from = labels[row]!;
    if (counts[from] === 1) continue;
    counts[from]!--;
    counts[empty]!++;
    labels[row] = empty;
  }
}

function histogram(labels: readonly number[], clusters: number): number[] {
  const counts = new Array<number>(clusters).fill(0);
  for (const label of labels) counts[label]!++;
  return counts;
}
