// The works of run.mjs: sizes, data, peers, and how results are compared. See bench/README.md for what each side does.
import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { makeRows, RowSource, SPECTRA } from '../../dist/bench/data.js';
import { lossBatch, startingCentres } from '../../dist/bench/inputs.js';
import { BENCH_MODELS, EMBEDDING } from '../../dist/bench/models.js';
import { SCALE, trainingData, UPDATE } from '../../dist/bench/training.js';
import { readNpy, writeNpy } from '../../dist/data/npy.js';
import { devices } from '../../dist/native/devices.js';
import { sameBatch, sameClusters, sameLosses, sameNeighbours, samePairs } from './compare.mjs';

const OPENBLAS = '/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0';

/** PyTorch trains more than twice as fast so: an OpenBLAS that shares OpenMP's threads and knows the processor, a malloc that keeps its pages. */
const TUNED = {
  OPENBLAS_CORETYPE: 'Cooperlake',
  MALLOC_TRIM_THRESHOLD_: '4294967296',
  MALLOC_MMAP_MAX_: '0',
  MALLOC_TOP_PAD_: '268435456',
  ...(existsSync(OPENBLAS) ? { LD_PRELOAD: OPENBLAS } : {}),
};

/** A part of the data's file names: to be raised when the same sizes and seed give other data. */
const VERSION = 2;

const dedup = (name, rows, rounds) => ({
  name,
  op: 'dedup',
  spectra: SPECTRA,
  rounds,
  peers: ['torch', 'torch-bf16'],
  ours: [{}],
  job: { threshold: 0.9 },
  files: ({ cache, spectrum, seed }) => rowFiles(cache, { spectrum, seed, dim: 512, parts: { rows } }),
  compare: samePairs,
});

/** Steps of training. `precisions` of ours; `batch` defaults to the model's, `microBatch` to the batch. */
export const training = (model, { rounds, peers, precisions, batch, microBatch }) => ({
  name: model,
  op: 'train',
  spectra: ['random'],
  rounds,
  peers,
  ours: precisions.map((precision) => (precision === 'float32' ? {} : { precision })),
  job: {
    model,
    ...(batch === undefined ? {} : { batch }),
    ...(microBatch === undefined ? {} : { microBatch }),
    // Memory is taken behind some steps, when all is there that stays.
    warm: 3,
    names: BENCH_MODELS[model]().towers.flatMap(({ graph }) => graph.parameters.map(({ name }) => name)),
    towers: TOWERS[BENCH_MODELS[model]().towers.length - 1],
    width: EMBEDDING,
    scale: SCALE,
    rate: UPDATE.rate,
    decay: UPDATE.decay,
  },
  files: ({ cache, seed }) => trainingFiles(cache, { model, batch, seed }),
  compare: sameLosses,
});
/** As trainingData names one, or two. */
const TOWERS = [['model'], ['image', 'text']];

/** In bf16 too where the model has large products of matrices, and the processor the instructions. */
const train = (model, rounds, peers, modules) => ({
  ...training(model, {
    rounds,
    peers,
    precisions:
      peers.includes('torch-bf16') && devices().devices[0].bfloat16 ? ['float32', 'bf16'] : ['float32'],
  }),
  modules,
  environment: TUNED,
});

const LAYOUTS = ['torch', 'torch-channels-last'];

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
    files: async ({ cache, spectrum, seed }) => {
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
    files: ({ cache, spectrum, seed }) =>
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
    files: ({ cache, spectrum, seed }) =>
      rowFiles(cache, { spectrum, seed, dim: 512, parts: { rows: 100_000, queries: 10_000 } }),
    compare: sameNeighbours,
  },
  train('vit-w192', 15, ['torch', 'torch-bf16']),
  train('vit-w512', 9, ['torch', 'torch-bf16']),
  train('text-w512', 5, ['torch', 'torch-bf16']),
  train('resnet18', 25, LAYOUTS, ['torchvision']),
  train('mobilenetv3-small', 25, LAYOUTS, ['torchvision']),
];

/** What the peers train on; ours makes the same from the seed. */
async function trainingFiles(cache, { model, batch, seed }) {
  const folder = join(cache, `train-v${VERSION}-${model}-${batch ?? 'own'}-seed${seed}`);
  const names = ['parameters', ...TOWERS[BENCH_MODELS[model]().towers.length - 1]];
  if (names.length === 2) names.push('target');
  if (!existsSync(folder)) {
    const data = trainingData({ model, batch, seed });
    const unfinished = `${folder}.${process.pid}`;
    await mkdir(unfinished, { recursive: true });
    const write = (name, values, dims) => writeNpy(join(unfinished, `${name}.npy`), values, dims);
    const values = new Float32Array(data.parameters.reduce((sum, { value }) => sum + value.length, 0));
    let at = 0;
    for (const { value } of data.parameters) {
      values.set(value, at);
      at += value.length;
    }
    await write('parameters', values, [values.length]);
    for (const { name, input } of data.towers) await write(name, input.data, input.dims);
    if (data.target) await write('target', data.target, [data.batch, EMBEDDING]);
    await rename(unfinished, folder);
  }
  return Object.fromEntries(names.map((name) => [name, join(folder, `${name}.npy`)]));
}

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
