// The works of run.mjs: sizes, data, peers, and how results are compared. See bench/README.md for what each side does.
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { makeRows, RowSource, SPECTRA } from '../../dist/bench/data.js';
import { lossBatch, startingCentres } from '../../dist/bench/inputs.js';
import { readNpy, writeNpy } from '../../dist/data/npy.js';
import { sameBatch, sameClusters, sameNeighbours, samePairs } from './compare.mjs';

/** A part of the data's file names: to be raised when the same sizes and seed give other data. */
const VERSION = 1;

const dedup = (name, rows, rounds) => ({
  name,
  op: 'dedup',
  spectra: SPECTRA,
  rounds,
  peers: ['torch', 'torch-bf16'],
  ours: [{}],
  job: { threshold: 0.9 },
  files: (cache, spectrum, seed) => rowFiles(cache, { spectrum, seed, dim: 512, parts: { rows } }),
  compare: samePairs,
});

export const WORKS = [
  dedup('dedup-20k', 20_000, 5),
  dedup('dedup-100k', 100_000, 2),
  {
    name: 'kmeans-100k',
    op: 'kmeans',
    spectra: SPECTRA,
    rounds: 3,
    peers: ['scikit-learn', 'faiss'],
    ours: [{}],
    job: { iterations: 10 },
    files: async (cache, spectrum, seed) => {
      const files = await rowFiles(cache, { spectrum, seed, dim: 256, parts: { rows: 100_000 } });
      const centres = files.rows.replace(/\.npy$/, '-centres1000.npy');
      if (!existsSync(centres)) {
        const { data } = await readNpy(files.rows);
        await writeNpy(centres, startingCentres(data, 100_000, 256, 1000), [1000, 256]);
      }
      return { ...files, centres };
    },
    compare: sameClusters,
  },
  {
    name: 'loss-1024x20k',
    op: 'loss',
    spectra: ['decaying'],
    rounds: 7,
    peers: ['torch'],
    // With frozen centres the teacher's softmax over them is a constant of the data set, which ours takes as an input.
    ours: [{ teacher: 'computed' }, { teacher: 'cached' }],
    job: { temperature: 0.05, scale: 1 / 0.07 },
    files: (cache, spectrum, seed) =>
      batchFiles(cache, { spectrum, seed, batch: 1024, dim: 512, clusters: 20_000 }),
    compare: sameBatch,
  },
  {
    name: 'nearest-10k-100k',
    op: 'nearest',
    spectra: SPECTRA,
    rounds: 3,
    peers: ['faiss', 'torch'],
    ours: [{}],
    job: { k: 10 },
    files: (cache, spectrum, seed) =>
      rowFiles(cache, { spectrum, seed, dim: 512, parts: { rows: 100_000, queries: 10_000 } }),
    compare: sameNeighbours,
  },
];

/** Consecutive parts of one source's rows, a file each. */
async function rowFiles(cache, { spectrum, seed, dim, parts }) {
  const key = `rows-v${VERSION}-${spectrum}-${dim}-seed${seed}`;
  const files = {};
  let from = 0;
  for (const [name, rows] of Object.entries(parts)) {
    files[name] = join(cache, `${key}-${from}-${from + rows}.npy`);
    if (!existsSync(files[name])) {
      const source = new RowSource({ dim, spectrum, seed });
      await writeNpy(files[name], await makeRows(source, rows, { from }), [rows, dim]);
    }
    from += rows;
  }
  return files;
}

async function batchFiles(cache, { spectrum, seed, batch, dim, clusters }) {
  const folder = join(cache, `batch-v${VERSION}-${spectrum}-${batch}x${dim}-${clusters}-seed${seed}`);
  const names = ['image', 'text', 'teacherImage', 'teacherText', 'centroids', 'labels'];
  if (!existsSync(folder)) {
    const unfinished = `${folder}.${process.pid}`;
    await mkdir(unfinished, { recursive: true });
    const made = await lossBatch(batch, clusters, { dim, spectrum, seed });
    for (const name of names) {
      const shape = name === 'labels' ? [batch] : [made[name].length / dim, dim];
      await writeNpy(join(unfinished, `${name}.npy`), made[name], shape);
    }
    await rename(unfinished, folder);
  }
  return Object.fromEntries(names.map((name) => [name, join(folder, `${name}.npy`)]));
}
