import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, FixedSum, fixedExponent, roundEven, unit, widen } from './canonical.ts';
import { philox64, scaleDraw } from './philox.ts';

export interface ReferenceKmeansOptions {
  clusters: number;
  batch: number;
  spherical: boolean;
  init: 'k-means++' | 'k-means||' | 'random' | Float32Array;
  nInit?: number;
  weights?: Float32Array;
  iterations: number;
  tolerance: number;
  movement?: number;
  seed: number;
}

export interface ReferenceKmeans {
  centroids: Float32Array;
  labels: Int32Array;
  counts: Int32Array;
  inertia: Float64Array;
  iterations: Int32Array;
}

interface Problem {
  index: number;
  rows: readonly Float32Array[];
  weights: readonly number[];
  options: ReferenceKmeansOptions;
}

/** Lloyd's k-means, problem by problem. */
export function kmeans(matrix: Matrix, options: ReferenceKmeansOptions): ReferenceKmeans {
  const { batch, spherical, clusters, nInit = 1, seed } = options;
  const all = widen(matrix).map((row) => (spherical ? unit(row)! : row));
  const weights = [...(options.weights ?? new Float32Array(all.length).fill(1))];
  const count = all.length / batch;
  const problems = Array.from({ length: batch }, (_, index) => {
    const [from, to] = [index * count, (index + 1) * count];
    const problem = { index, rows: all.slice(from, to), weights: weights.slice(from, to), options };
    const runs = Array.from({ length: nInit }, (_, run) =>
      solve(problem, run === 0 ? BigInt(seed) : philox64(seed, 20, run)),
    );
    return runs.reduce((best, run) => (run.inertia < best.inertia ? run : best));
  });
  return {
    centroids: Float32Array.from(problems.flatMap(({ centroids }) => centroids.flatMap((row) => [...row]))),
    labels: Int32Array.from(problems.flatMap(({ labels }) => labels)),
    counts: Int32Array.from(problems.flatMap(({ labels }) => histogram(labels, clusters))),
    inertia: Float64Array.from(problems, (problem) => problem.inertia),
    iterations: Int32Array.from(problems, (problem) => problem.iterations),
  };
}

/** Labels and distances for given centroids [B, K, D]. */
export function predict(
  matrix: Matrix,
  centroids: Float32Array,
  { batch, spherical }: { batch: number; spherical: boolean },
): { labels: Int32Array; distances: Float32Array } {
  const rows = widen(matrix).map((row) => (spherical ? unit(row)! : row));
  const centres = cut(centroids, matrix.dim);
  const [count, clusters] = [rows.length / batch, centres.length / batch];
  const parts = Array.from({ length: batch }, (_, index) => {
    const own = rows.slice(index * count, (index + 1) * count);
    const near = centres.slice(index * clusters, (index + 1) * clusters);
    const labels = assign(own, near, spherical);
    return { labels, distances: distances(own, near, labels, spherical) };
  });
  return {
    labels: Int32Array.from(parts.flatMap((part) => part.labels)),
    distances: Float32Array.from(parts.flatMap((part) => part.distances)),
  };
}

function solve(problem: Problem, seed: bigint) {
  const { rows, weights, options } = problem;
  const { clusters, spherical, tolerance, movement = 0 } = options;
  const limit = movement * (movement > 0 ? variance(problem) : 0);
  let centroids = start(problem, seed);
  let labels = assign(rows, centroids, spherical);
  let iterations = 0;
  while (iterations < options.iterations) {
    reseed(labels, clusters, weights, distances(rows, centroids, labels, spherical));
    const old = centroids;
    centroids = old.map((centre, index) => {
      const members = [...rows.keys()].filter((row) => labels[row] === index);
      const mean = meanOf(problem, members);
      return (spherical ? mean && unit(mean) : mean) ?? centre;
    });
    iterations++;
    const before = labels;
    labels = assign(rows, centroids, spherical);
    if (labels.filter((label, row) => label !== before[row]).length <= tolerance * rows.length) break;
    const steps = centroids.map((centre, index) =>
      centre.map((value, column) => value - old[index]![column]!),
    );
    if (movement > 0 && steps.reduce((sum, step) => sum + dot(step, step), 0) <= limit) break;
  }

  const last = distances(rows, centroids, labels, spherical).map((distance, row) => weights[row]! * distance);
  const sum = new FixedSum(
    fixedExponent(rows.length, spherical ? 2 * Math.max(...weights) : Math.max(...last)),
  );
  for (const distance of last) sum.add(distance);
  return { centroids, labels, inertia: sum.value, iterations };
}

/** Weighted mean in fixed point; undefined where the weight is zero. */
function meanOf({ rows, weights, options }: Problem, members: readonly number[]): Float32Array | undefined {
  const heaviest = Math.max(...weights);
  const largest = options.spherical
    ? 1
    : rows.reduce((most, row) => row.reduce((x, y) => Math.max(x, Math.abs(y)), most), 0);
  const total = new FixedSum(fixedExponent(rows.length, heaviest));
  for (const row of members) total.add(weights[row]!);
  if (total.sum === 0n) return undefined;
  return Float32Array.from(rows[0]!, (_, column) => {
    const sum = new FixedSum(fixedExponent(rows.length, largest * heaviest));
    for (const row of members) sum.add(rows[row]![column]! * weights[row]!);
    return sum.value / total.value;
  });
}

/** Mean squared deviation from the mean of all rows, a dimension. */
function variance(problem: Problem): number {
  const { rows, weights } = problem;
  const mean = meanOf(problem, [...rows.keys()])!;
  const deviations = rows.map((row, index) => weights[index]! * square(row, mean));
  const sum = new FixedSum(fixedExponent(rows.length, Math.max(...deviations)));
  for (const deviation of deviations) sum.add(deviation);
  const total = new FixedSum(fixedExponent(rows.length, Math.max(...weights)));
  for (const weight of weights) total.add(weight);
  return sum.value / total.value / mean.length;
}

/** Higher is nearer, and orders the centres by distance. */
function nearness(row: Float32Array, centre: Float32Array): number {
  return dot(row, centre) - dot(centre, centre) / 2;
}

function square(row: Float32Array, centre: Float32Array): number {
  return Math.max(0, dot(row, row) - 2 * nearness(row, centre));
}

function cut(data: Float32Array, dim: number): Float32Array[] {
  return Array.from({ length: data.length / dim }, (_, row) => data.slice(row * dim, (row + 1) * dim));
}

function start(problem: Problem, seed: bigint): Float32Array[] {
  const { index, rows, weights, options } = problem;
  const { clusters, init, spherical } = options;
  if (init instanceof Float32Array) {
    const dim = rows[0]!.length;
    const given = init.slice(index * clusters * dim, (index + 1) * clusters * dim);
    return cut(given, dim).map((row) => (spherical ? unit(row)! : row));
  }
  let chosen: number[];
  if (init === 'random') chosen = randomOrder(problem, seed).slice(0, clusters);
  else if (init === 'k-means++') chosen = plusPlus(rows, weights, problem, seed, [1, 16]);
  else {
    const candidates = chooseCandidates(problem, seed);
    if (candidates.length < clusters) {
      const others = randomOrder(problem, seed).filter((row) => !candidates.includes(row));
      chosen = [...candidates, ...others].slice(0, clusters);
    } else {
      const order = [...candidates].sort((i, j) => i - j);
      const own = candidateWeights(problem, candidates);
      const sorted = order.map((row) => own[candidates.indexOf(row)]!);
      const points = order.map((row) => rows[row]!);
      chosen = plusPlus(points, sorted, problem, seed, [18, 19]).map((place) => order[place]!);
    }
  }
  return chosen.map((row) => rows[row]!);
}

/** By draw, then by index; rows of weight zero after all others. */
function randomOrder({ index, rows, weights }: Problem, seed: bigint): number[] {
  const draws = rows.map((_, row) => philox64(seed, 2, index * rows.length + row));
  const zero = (row: number) => Number(weights[row] === 0);
  return [...rows.keys()].sort(
    (i, j) => zero(i) - zero(j) || (draws[i]! < draws[j]! ? -1 : draws[i]! > draws[j]! ? 1 : i - j),
  );
}

/** The integers that a draw compares. */
function shares(p: readonly number[]) {
  const scale = 2 ** fixedExponent(p.length, Math.max(...p));
  const toFixed = (value: number) => BigInt(roundEven(value * scale));
  const fixed = p.map(toFixed);
  return { fixed, toFixed, total: fixed.reduce((sum, share) => sum + share, 0n) };
}

function find(fixed: readonly bigint[], target: bigint): number {
  let running = 0n;
  return fixed.findIndex((share) => (running += share) > target);
}

/** Places of K of the points, drawn in blocks with rejection. */
function plusPlus(
  points: readonly Float32Array[],
  weights: readonly number[],
  { index, options: { clusters } }: Problem,
  seed: bigint,
  [drawStream, acceptStream]: readonly [number, number],
): number[] {
  let n = 0;
  const draw = (stream: number, bound: bigint) =>
    scaleDraw(philox64(seed, stream, (BigInt(index) << 32n) + BigInt(n)), bound);
  const first = shares(weights);
  const chosen = [find(first.fixed, draw(drawStream, first.total))];
  n++;
  while (chosen.length < clusters) {
    const nearest = points.map((row) => Math.min(...chosen.map((centre) => square(row, points[centre]!))));
    const { fixed, toFixed, total } = shares(nearest.map((distance, place) => weights[place]! * distance));
    if (total === 0n) {
      const rest = [...points.keys()].filter((place) => !chosen.includes(place));
      return [...chosen, ...rest].slice(0, clusters);
    }
    const size = Math.min(Math.max(1, Math.floor(chosen.length / 8)), 512, clusters - chosen.length);
    const own: number[] = [];
    for (let draws = 0; draws < size; draws++, n++) {
      const place = find(fixed, draw(drawStream, total));
      const left = Math.min(nearest[place]!, ...own.map((centre) => square(points[place]!, points[centre]!)));
      if (draw(acceptStream, fixed[place]!) < toFixed(weights[place]! * left)) own.push(place);
    }
    chosen.push(...own);
  }
  return chosen;
}

/** The candidates of k-means||, round by round. */
function chooseCandidates({ index, rows, weights, options }: Problem, seed: bigint): number[] {
  const base = index * (5 * rows.length + 1);
  const first = shares(weights);
  const candidates = [find(first.fixed, scaleDraw(philox64(seed, 17, base), first.total))];
  for (let round = 0; round < 5; round++) {
    const p = rows.map(
      (row, at) => weights[at]! * Math.min(...candidates.map((one) => square(row, rows[one]!))),
    );
    const { fixed, total } = shares(p);
    if (total === 0n) break;
    const drawn = [...rows.keys()].filter((row) => {
      const u = philox64(seed, 17, base + 1 + round * rows.length + row);
      return scaleDraw(u, total) < BigInt(options.clusters) * fixed[row]!;
    });
    candidates.push(...drawn);
  }
  return candidates;
}

/** Weight of the rows that each candidate is the nearest of. */
function candidateWeights({ rows, weights }: Problem, candidates: readonly number[]): number[] {
  const exponent = fixedExponent(rows.length, Math.max(...weights));
  const sums = candidates.map(() => new FixedSum(exponent));
  const centres = candidates.map((row) => rows[row]!);
  for (const [row, place] of assign(rows, centres, false).entries()) sums[place]!.add(weights[row]!);
  return sums.map((sum) => sum.value);
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

/** Every centre without a row of weight takes the farthest that is not the last of its own; changes `labels`. */
function reseed(
  labels: number[],
  clusters: number,
  weights: readonly number[],
  distance: readonly number[],
): void {
  const heavy = [...labels.keys()].filter((row) => weights[row]! > 0);
  const counts = histogram(
    heavy.map((row) => labels[row]!),
    clusters,
  );
  for (const row of heavy.sort((i, j) => distance[j]! - distance[i]! || i - j)) {
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
