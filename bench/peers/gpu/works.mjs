// The works of gpu/run.mjs: sizes, data, peers, and how results are compared. See bench/README.md for what each side does.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readNpy, writeNpy } from '../../../dist/data/npy.js';
import { sampleCentres } from '../../../dist/kernels/loss.js';
import { sameBatch, sameClusters, sameNeighbours, samePairs } from '../compare.mjs';
import { training } from '../works.mjs';

const MAKER = fileURLToPath(new URL('./data.py', import.meta.url));
/** A part of the data's file names: to be raised when the same sizes and seed give other data. */
const VERSION = 1;

/** What a peer multiplies. Triton's products of float32 are TF32 unless they are told otherwise. */
const PRECISION = {
  torch: 'float32',
  'torch-compile': 'float32',
  'torch-tf32': 'tf32',
  'torch-bf16': 'bfloat16',
  'flash-kmeans': 'tf32',
  flashlib: 'tf32',
  'inf-cl': 'tf32',
  liger: 'bfloat16',
  'cut-cross-entropy': 'bfloat16',
};

/**
 * How far a peer may be from ours, relative: of the loss, of its gradients' norm, and of the inertia. Ours errs like float32. Logits are up to 20
 * here: in bfloat16 one is off by up to 20 · 2⁻⁹ = 0.04, and a probability by as much of itself; in TF32 by an eighth of that; a mean over the batch
 * errs far less. Inertias after some iterations differ by the rows that lie between two centres.
 */
const BOUNDS = {
  float32: { loss: 1e-5, gradient: 1e-4, inertia: 1e-4 },
  tf32: { loss: 1e-3, gradient: 1e-2, inertia: 1e-3 },
  bfloat16: { loss: 1e-2, gradient: 1e-1, inertia: 1e-2 },
};
const boundsOf = (peer) => BOUNDS[PRECISION[peer]];

/** The terms that a work has of the loss; weights of the others are 0. */
const NOTHING = { clipWeight: 0, ceWeight: 0, klWeight: 0, instanceWeight: 0 };

const TORCH = ['torch', 'torch-tf32', 'torch-bf16'];

/** Sizes are over `scale`: 1, or more where the runner is only tried. */
export function gpuWorks(scale) {
  const size = (count) => Math.max(Math.round(count / scale), 64);

  /** @param more `dtype` of the rows, and `inFile`: ours begins from the file, which is to be in memory, rather than from rows on the device. */
  const dedup = (name, rows, dim, { rounds, peers = TORCH, spectra = ['decaying'], ...more }) => ({
    name,
    op: 'dedup',
    spectra,
    rounds,
    peers,
    ours: [{}],
    job: { threshold: 0.9, ...more },
    files: (place) => rowFiles(place, { dim, parts: { rows: size(rows) }, dtype: more.dtype }),
    compare: samePairs,
  });

  const kmeans = (name, { batch = 1, rows, clusters, dim, ...work }) => ({
    name,
    op: 'kmeans',
    spectra: ['decaying'],
    ours: [{}],
    peers: ['torch', 'torch-tf32', 'flash-kmeans', 'flashlib'],
    ...work,
    job: { iterations: 5, batch },
    files: (place) =>
      rowFiles(place, { dim, parts: { rows: batch * size(rows) }, centres: size(clusters), batch }),
    compare: (sides) => sameClusters({ ...sides, bounds: boundsOf }),
  });

  const loss = (name, { batch, dim = 512, clusters, rounds = 7, peers, rate, ...job }) => ({
    name,
    op: 'loss',
    spectra: ['decaying'],
    rounds,
    peers: ['torch', 'torch-compile', ...peers],
    ours: [{}],
    job: { temperature: 0.05, scale: 1 / 0.07, ...job },
    files: (place) => batchFiles(place, { batch: size(batch), dim, clusters: size(clusters), rate }),
    compare: (sides) => sameBatch({ ...sides, bounds: boundsOf }),
  });

  return [
    dedup('dedup-100k', 100_000, 512, { rounds: 7, spectra: ['decaying', 'flat'] }),
    dedup('dedup-1m', 1_000_000, 768, { rounds: 3 }),
    dedup('balance-10m', 10_000_000, 768, { rounds: 1, peers: [], dtype: 'float16', inFile: true }),
    kmeans('kmeans-32x131k', { batch: 32, rows: 131_072, clusters: 1024, dim: 128, rounds: 5 }),
    kmeans('kmeans-10m', { rows: 10_000_000, clusters: 20_000, dim: 256, rounds: 2 }),
    {
      name: 'nearest-10k-1m',
      op: 'nearest',
      spectra: ['decaying', 'flat'],
      rounds: 5,
      peers: ['torch', 'torch-tf32', 'flashlib'],
      ours: [{}],
      job: { k: 10 },
      files: (place) =>
        rowFiles(place, { dim: 512, parts: { rows: size(1_000_000), queries: size(10_000) } }),
      compare: sameNeighbours,
    },
    loss('loss-4096x20k', {
      batch: 4096,
      clusters: 20_000,
      peers: ['torch-tf32', 'torch-bf16'],
      terms: 'all',
    }),
    loss('loss-8192x1m', {
      batch: 8192,
      dim: 768,
      clusters: 1_000_000,
      rounds: 3,
      peers: ['torch-tf32', 'torch-bf16'],
      terms: 'all',
      // Logits of all pairs at once would be 33 GB, some times over.
      chunk: 512,
    }),
    loss('loss-8192x1m-sampled', {
      batch: 8192,
      dim: 768,
      clusters: 1_000_000,
      rate: 0.1,
      rounds: 5,
      peers: ['torch-tf32', 'torch-bf16'],
      terms: 'all',
      chunk: 4096,
    }),
    loss('contrast-16k', {
      batch: 16_384,
      clusters: 1000,
      peers: ['inf-cl'],
      terms: 'contrast',
      weights: { ...NOTHING, clipWeight: 1 },
    }),
    loss('clusters-4096x100k', {
      batch: 4096,
      clusters: 100_000,
      peers: ['liger', 'cut-cross-entropy'],
      terms: 'clusters',
      weights: { ...NOTHING, ceWeight: 1 },
      gradients: ['image'],
    }),
    // A smaller one of the same kind where the runner is only tried.
    training(scale === 1 ? 'clip-b-32' : 'clip-w192', {
      rounds: 3,
      peers: ['torch-bf16'],
      precisions: ['bf16'],
      batch: size(4096),
      microBatch: size(4096) / 4,
    }),
  ];
}

/** Files that are made on the device when one is missing, in a folder that says what is in them. */
async function made({ cache, spectrum, seed, python, device }, key, names, job) {
  const folder = join(cache, `gpu-v${VERSION}-${spectrum}-${key}-seed${seed}`);
  const files = (place) => Object.fromEntries(names.map((name) => [name, join(place, `${name}.npy`)]));
  if (existsSync(folder)) return files(folder);
  const unfinished = `${folder}.${process.pid}`;
  await mkdir(unfinished, { recursive: true });
  const all = { device, seed, spectrum, files: files(unfinished), ...job };
  const { error, status, stderr } = spawnSync(python, [MAKER, JSON.stringify(all)], { encoding: 'utf8' });
  if (error || status !== 0) {
    throw new Error(`its data were not made: ${error?.message ?? stderr.trim().split('\n').at(-1)}`);
  }
  await rename(unfinished, folder);
  return files(folder);
}

/** Consecutive parts of one source's rows, a file each; with `centres` a problem that k-means begins from. */
function rowFiles(place, { dim, parts, dtype = 'float32', centres, batch }) {
  const counts = Object.values(parts).join('-');
  const more = centres === undefined ? '' : `-${batch}x${centres}`;
  const names = [...Object.keys(parts), ...(centres === undefined ? [] : ['centres'])];
  const job = { kind: 'rows', dim, rows: parts, dtype, ...(centres === undefined ? {} : { centres, batch }) };
  return made(place, `rows-${counts}x${dim}-${dtype}${more}`, names, job);
}

/** A batch of the loss; with a rate the centres that count in it. */
async function batchFiles(place, { batch, dim, clusters, rate }) {
  const names = ['image', 'text', 'teacherImage', 'teacherText', 'centroids', 'labels'];
  const key = `batch-${batch}x${dim}-${clusters}`;
  const files = await made(place, key, names, { kind: 'batch', dim, batch, clusters });
  if (rate === undefined) return files;
  const sample = files.labels.replace(/labels\.npy$/, `sample-${rate}.npy`);
  if (!existsSync(sample)) {
    const { data: labels } = await readNpy(files.labels);
    const drawn = sampleCentres({ clusters, labels, rate, seed: place.seed, step: 0 });
    await writeNpy(sample, drawn, [drawn.length]);
  }
  return { ...files, sample };
}
