// Whether two sides came to the same result. Ours is exact, a peer's float32 is not: what differs is settled in float64 here, so that it is
// known who was wrong. Every function takes folders of .npy files, ours and by peer, and gives for each peer what to report: `agrees`, and numbers.
import { join } from 'node:path';
import { readNpy } from '../../dist/data/npy.js';

const load = async (folder, name) => (await readNpy(join(folder, `${name}.npy`))).data;

/** Rows rounded as the core compares them: float32 of row / norm. */
function unit(rows, index, dim) {
  const row = rows.subarray(index * dim, (index + 1) * dim);
  const norm = Math.sqrt(dot(row, row));
  return row.map((value) => value / norm);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * Pairs over a threshold. The true pairs are those of any peer that are so in float64. They are all there are, and ours are the same ones, when ours
 * are as many and the groups that they make are ours.
 */
export async function samePairs({ ours, peers, files, job }) {
  const { data: rows, shape } = await readNpy(files.rows);
  const [count, dim] = shape;
  const cosines = new Map();
  const sets = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const pairs = await load(folder, 'pairs');
    sets[peer] = new Set();
    for (let i = 0; i < pairs.length; i += 2) {
      const key = pairs[i] * count + pairs[i + 1];
      sets[peer].add(key);
      if (!cosines.has(key)) {
        cosines.set(key, dot(unit(rows, pairs[i], dim), unit(rows, pairs[i + 1], dim)));
      }
    }
  }
  const parent = Int32Array.from({ length: count }, (_, i) => i);
  const root = (i) => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  let pairs = 0;
  for (const [key, cosine] of cosines) {
    if (cosine <= job.threshold) continue;
    pairs++;
    const [a, b] = [root(Math.floor(key / count)), root(key % count)];
    // The smaller index is the label.
    parent[Math.max(a, b)] = Math.min(a, b);
  }
  const labels = await load(ours, 'labels');
  const [edges] = await load(ours, 'edges');
  const same = edges === pairs && labels.every((label, i) => label === root(i));
  return Object.fromEntries(
    Object.entries(sets).map(([peer, set]) => {
      let wrong = 0;
      for (const [key, cosine] of cosines) if (set.has(key) !== cosine > job.threshold) wrong++;
      return [peer, { agrees: same, pairs: edges, peer_wrong_pairs: wrong }];
    }),
  );
}

/** K-means from the same start: float32 sums differ, so labels of a few rows do. */
export async function sameClusters({ ours, peers, files }) {
  const { data: rows, shape } = await readNpy(files.rows);
  const inertia = async (folder) => {
    const [labels, centres] = [await load(folder, 'labels'), await load(folder, 'centres')];
    const dim = shape[1];
    let sum = 0;
    for (let i = 0; i < labels.length; i++) {
      for (let k = 0; k < dim; k++) sum += (rows[i * dim + k] - centres[labels[i] * dim + k]) ** 2;
    }
    return { labels, sum };
  };
  const own = await inertia(ours);
  const report = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const other = await inertia(folder);
    const different = own.labels.reduce((n, label, i) => n + Number(label !== other.labels[i]), 0);
    const excess = other.sum / own.sum - 1;
    report[peer] = {
      agrees: Math.abs(excess) < 1e-4,
      peer_inertia_excess: excess,
      different_labels: different,
    };
  }
  return report;
}

/** Neighbours as sets: where a peer's differ by more than float32 leaves open, somebody is wrong. */
export async function sameNeighbours({ ours, peers, files, job }) {
  const [base, asked] = await Promise.all([readNpy(files.rows), readNpy(files.queries)]);
  const dim = base.shape[1];
  const own = await load(ours, 'indices');
  const report = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const indices = await load(folder, 'indices');
    let wrong = 0;
    let better = 0;
    for (let at = 0; at < own.length; at += job.k) {
      const mine = own.subarray(at, at + job.k);
      const theirs = indices.subarray(at, at + job.k);
      if (mine.every((index) => theirs.includes(index))) continue;
      wrong++;
      const query = unit(asked.data, at / job.k, dim);
      const score = (index) => dot(query, unit(base.data, index, dim));
      const only = (a, b) => [...a].filter((index) => !b.includes(index)).map(score);
      // Exact neighbours are never worse than others; 1e-12 is far over the rounding of a sum in float64.
      if (Math.min(...only(mine, theirs)) < Math.max(...only(theirs, mine)) - 1e-12) better++;
    }
    report[peer] = { agrees: better === 0, peer_wrong_queries: wrong };
  }
  return report;
}

/** The loss and its gradients, which nobody computes exactly. `job.agreement`: how far apart those of low precision may be. */
export async function sameBatch({ ours, peers, job }) {
  const names = job.gradients ?? ['image', 'text'];
  const { loss: most, gradient: furthest } = job.agreement ?? { loss: 1e-5, gradient: 1e-4 };
  const [total] = await load(ours, 'total');
  const report = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const [other] = await load(folder, 'total');
    let gradient = 0;
    for (const name of names) {
      const [own, theirs] = [await load(ours, name), await load(folder, name)];
      let [difference, norm] = [0, 0];
      for (let i = 0; i < own.length; i++) {
        difference += (own[i] - theirs[i]) ** 2;
        norm += theirs[i] ** 2;
      }
      gradient = Math.max(gradient, Math.sqrt(difference / norm));
    }
    const loss = Math.abs(total - other) / Math.abs(other);
    report[peer] = {
      agrees: loss < most && gradient < furthest,
      loss_difference: loss,
      gradient_difference: gradient,
    };
  }
  return report;
}

/** The losses of the first steps; later ones drift apart as rounding grows, and from the first on where a side rounds to bfloat16. */
export async function sameLosses({ ours, peers, variant }) {
  const STEPS = 3;
  const own = await load(ours, 'losses');
  const report = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const other = await load(folder, 'losses');
    const differences = Array.from({ length: STEPS }, (_, i) => Math.abs(own[i] - other[i]) / other[i]);
    const difference = Math.max(...differences);
    const bound = variant.precision === 'bf16' || peer === 'torch-bf16' ? 1e-2 : 1e-3;
    report[peer] = { agrees: difference < bound, loss_difference: difference };
  }
  return report;
}
