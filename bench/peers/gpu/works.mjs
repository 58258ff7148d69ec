// The works of gpu/run.mjs: sizes, data, peers, and how results are compared. See bench/README.md for what each side does.
import { existsSync } from 'node:fs';
import { startingCentres } from '../../../dist/bench/inputs.js';
import { readNpy, writeNpy } from '../../../dist/data/npy.js';
import { sameBatch, sameClusters, sameNeighbours, samePairs } from '../compare.mjs';
import { batchFiles, rowFiles } from '../works.mjs';

/** What peers in bfloat16 are held to; ours and torch in float32 are far closer. */
const LOW = { loss: 1e-2, gradient: 5e-2 };

/** The terms that a work has of the loss; weights of the others are 0. */
const NOTHING = { clipWeight: 0, ceWeight: 0, klWeight: 0, instanceWeight: 0 };

const TORCH = ['torch', 'torch-tf32', 'torch-bf16'];

/** Sizes are over `scale`: 1, or more where the runner is only tried. */
export function gpuWorks(scale) {
  const size = (count) => Math.max(Math.round(count / scale), 64);

  const dedup = (name, rows, rounds) => ({
    name,
    op: 'dedup',
    spectra: ['decaying', 'flat'],
    rounds,
    peers: TORCH,
    ours: [{}],
    job: { threshold: 0.9 },
    files: (cache, spectrum, seed) =>
      rowFiles(cache, { spectrum, seed, dim: 512, parts: { rows: size(rows) } }),
    compare: samePairs,
  });

  const kmeans = (name, rows, clusters) => ({
    name,
    op: 'kmeans',
    spectra: ['decaying'],
    rounds: 5,
    peers: ['torch', 'torch-tf32', 'flash-kmeans', 'flashlib'],
    ours: [{}],
    job: { iterations: 10 },
    files: async (cache, spectrum, seed) => {
      const files = await rowFiles(cache, { spectrum, seed, dim: 256, parts: { rows: size(rows) } });
      const centres = files.rows.replace(/\.npy$/, `-centres${size(clusters)}.npy`);
      if (!existsSync(centres)) {
        const { data } = await readNpy(files.rows);
        await writeNpy(centres, startingCentres(data, size(rows), 256, size(clusters)), [
          size(clusters),
          256,
        ]);
      }
      return { ...files, centres };
    },
    compare: sameClusters,
  });

  const loss = (name, batch, clusters, peers, job) => ({
    name,
    op: 'loss',
    spectra: ['decaying'],
    rounds: 7,
    peers,
    ours: [{}],
    job: { temperature: 0.05, scale: 1 / 0.07, ...job },
    files: (cache, spectrum, seed) =>
      batchFiles(cache, { spectrum, seed, batch: size(batch), dim: 512, clusters: size(clusters) }),
    compare: sameBatch,
  });

  return [
    dedup('dedup-100k', 100_000, 7),
    dedup('dedup-1m', 1_000_000, 3),
    kmeans('kmeans-1m', 1_000_000, 4096),
    {
      name: 'nearest-10k-1m',
      op: 'nearest',
      spectra: ['decaying', 'flat'],
      rounds: 5,
      peers: ['torch', 'torch-tf32', 'flashlib'],
      ours: [{}],
      job: { k: 10 },
      files: (cache, spectrum, seed) =>
        rowFiles(cache, {
          spectrum,
          seed,
          dim: 512,
          parts: { rows: size(1_000_000), queries: size(10_000) },
        }),
      compare: sameNeighbours,
    },
    loss('loss-4096x20k', 4096, 20_000, ['torch', 'torch-compile'], { terms: 'all', agreement: LOW }),
    loss('contrast-16k', 16_384, 1000, ['torch', 'torch-compile', 'inf-cl'], {
      terms: 'contrast',
      weights: { ...NOTHING, clipWeight: 1 },
      agreement: LOW,
    }),
    loss('clusters-4096x100k', 4096, 100_000, ['torch', 'torch-compile', 'liger', 'cut-cross-entropy'], {
      terms: 'clusters',
      weights: { ...NOTHING, ceWeight: 1 },
      gradients: ['image'],
      agreement: LOW,
    }),
  ];
}
