// Whether two sides came to the same result. Ours is exact, a peer's float32 is not: what differs is settled in float64 here, so that it is
// known who was wrong. Every function takes folders of .npy files, ours and by peer, and gives for each peer what to report: `agrees`, and numbers.
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { readNpy, readNpyHeader } from '../../dist/data/npy.js';

const load = async (folder, name) => (await readNpy(join(folder, `${name}.npy`))).data;

/** Rows of a float32 .npy file of any size, read as they are asked for. */
class RowFile {
  static async open(path) {
    const { shape, offset } = await readNpyHeader(path);
    return Object.assign(new RowFile(), { count: shape[0], dim: shape[1], offset, file: openSync(path) });
  }

  row(index) {
    const row = new Float32Array(this.dim);
    readSync(this.file, row, 0, row.byteLength, this.offset + index * row.byteLength);
    return row;
  }

  /** Rounded as the core compares them: float32 of row / norm. */
  unit(index) {
    const row = this.row(index);
    const norm = Math.sqrt(dot(row, row));
    return row.map((value) => value / norm);
  }

  close() {
    closeSync(this.file);
  }
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
  const rows = await RowFile.open(files.rows);
  const { count } = rows;
  const cosines = new Map();
  const sets = {};
  for (const [peer, folder] of Object.entries(peers)) {
    const pairs = await load(folder, 'pairs');
    sets[peer] = new Set();
    for (let i = 0; i < pairs.length; i += 2) {
      const key = pairs[i] * count + pairs[i + 1];
      sets[peer].add(key);
      if (!cosines.has(key)) {
        cosines.set(key, dot(rows.unit(pairs[i]), rows.unit(pairs[i + 1])));
      }
    }
  }
  rows.close();
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

/** Rows that inertia is computed of, in runs at equal distances where there are more. */
const SAMPLE = { runs: 64, rows: 2048 };

/**
 * K-means from the same start: float32 sums differ, so labels of a few rows do.
 *
 * @param bounds How much more a peer's inertia may be, relative: `bounds(peer).inertia`.
 */
export async function sameClusters({ ours, peers, files, job, bounds = () => ({ inertia: 1e-4 }) }) {
  const rows = await RowFile.open(files.rows);
  const { count, dim } = rows;
  const runs = count > SAMPLE.runs * SAMPLE.rows ? SAMPLE.runs : 1;
  const length = runs === 1 ? count : SAMPLE.rows;
  const batch = job.batch ?? 1;
  const inertia = async (folder) => {
    const [labels, centres] = [await load(folder, 'labels'), await load(folder, 'centres')];
    const clusters = centres.length / dim / batch;
    let sum = 0;
    for (let run = 0; run < runs; run++) {
      const first = Math.floor((run * (count - length)) / Math.max(runs - 1, 1));
      for (let i = first; i < first + length; i++) {
        const row = rows.row(i);
        const centre = (Math.floor((i * batch) / count) * clusters + labels[i]) * dim;
        for (let k = 0; k < dim; k++) sum += (row[k] - centres[centre + k]) ** 2;
      }
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
      agrees: Math.abs(excess) < bounds(peer).inertia,
      peer_inertia_excess: excess,
      different_labels: different,
    };
  }
  rows.close();
  return report;
}

/** Neighbours as sets: where a peer's differ by more than float32 leaves open, somebody is wrong. */
export async function sameNeighbours({ ours, peers, files, job }) {
  const [base, asked] = await Promise.all([RowFile.open(files.rows), RowFile.open(files.queries)]);
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
      const query = asked.unit(at / job.k);
      const score = (index) => dot(query, base.unit(index));
      const only = (a, b) => [...a].filter((index) => !b.includes(index)).map(score);
      // Exact neighbours are never worse than others; 1e-12 is far over the rounding of a sum in float64.
      if (Math.min(...only(mine, theirs)) < Math.max(...only(theirs, mine)) - 1e-12) better++;
    }
    report[peer] = { agrees: better === 0, peer_wrong_queries: wrong };
  }
  base.close();
  asked.close();
  return report;
}

/**
 * The loss and its gradients, which nobody computes exactly.
 *
 * @param bounds How far apart a peer's may be, relative: `bounds(peer)` has `loss` and `gradient`. Defaults to what float32 leaves open.
 */
export async function sameBatch({ ours, peers, job, bounds = () => ({ loss: 1e-5, gradient: 1e-4 }) }) {
  const names = job.gradients ?? ['image', 'text'];
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
    const { loss: most, gradient: furthest } = bounds(peer);
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
