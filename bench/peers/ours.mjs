// Our side of run.mjs: one work in a process that stays, with the same commands and answers as peers.py. Run with --expose-gc.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Training, trainingData } from '../../dist/bench/training.js';
import { readNpy, writeNpy } from '../../dist/data/npy.js';
import { balance } from '../../dist/kernels/balance.js';
import { kmeans } from '../../dist/kernels/kmeans.js';
import { clusterInstanceLoss, softTargets } from '../../dist/kernels/loss.js';
import { nearest } from '../../dist/kernels/nearest.js';
import { upload } from '../../dist/kernels/rows.js';

const job = JSON.parse(process.argv[2]);
const kernel = { device: job.device ?? 'cpu', threads: job.threads };
const data = {};
for (const [name, path] of Object.entries(job.op === 'train' ? {} : job.files)) {
  const { data: values, shape } = await readNpy(path);
  data[name] = shape.length === 2 ? { data: values, rows: shape[0], dim: shape[1] } : values;
}

const onGpu = kernel.device !== 'cpu';
/** On a GPU the rows that are searched lie there already, as the peers' do. */
const uploaded = new Map();
for (const matrix of onGpu && job.op !== 'loss' ? [data.rows, data.queries] : []) {
  if (matrix !== undefined) uploaded.set(matrix, await upload(matrix, kernel));
}

/** The first rows of a matrix; without a count the matrix where it lies. */
const head = (matrix, count) => {
  const { data: values, rows, dim } = matrix;
  if (count === undefined) return uploaded.get(matrix) ?? matrix;
  return { data: values.subarray(0, Math.min(count, rows) * dim), rows: Math.min(count, rows), dim };
};

/** Resident memory that the work's extra is counted from, where it is not what is there before a run. */
let base;
const losses = [];

async function startTraining() {
  const training = trainingData(job);
  globalThis.gc();
  base = memory();
  return Training.start(training, kernel, 'auto', job.precision);
}

const training = job.op === 'train' ? await startTraining() : undefined;

/** By operation: what is done, and what of its result is kept and compared. `count` takes less of the data, to warm up. */
const works = {
  dedup: async (count) => {
    const rows = head(data.rows, count);
    const { labels, keep, centrality, edges, plan } = await balance(rows, {
      ...kernel,
      threshold: job.threshold,
    });
    return { arrays: { labels, keep, centrality, edges: Int32Array.of(edges) }, plan };
  },
  kmeans: async (count) => {
    const centres = head(data.centres, count && Math.ceil(count / 64));
    const { labels, centroids, plan } = await kmeans(head(data.rows, count), {
      ...kernel,
      clusters: centres.rows,
      init: centres.data,
      iterations: job.iterations,
      spherical: false,
      tolerance: 0,
    });
    return { arrays: { labels, centres: centroids }, plan };
  },
  nearest: async (count) => {
    const { indices, scores, plan } = await nearest(head(data.queries, count), head(data.rows), {
      ...kernel,
      k: job.k,
    });
    return { arrays: { indices, scores }, plan };
  },
  loss: async (count) => {
    const { image, text, teacherImage, teacherText, centroids, labels } = data;
    const scale = Math.log(job.scale);
    const { total, gradients, plan } = await clusterInstanceLoss(
      {
        image: head(image, count),
        text: head(text, count),
        teacherImage: head(teacherImage, count),
        teacherText: head(teacherText, count),
        clipLogScale: scale,
        instanceLogScale: scale,
        centroids,
        labels: labels.subarray(0, count),
        ...(job.cached ? { softTargets: cut(soft, count) } : {}),
      },
      { ...kernel, temperature: job.temperature, ...job.weights },
    );
    return {
      arrays: { total: Float32Array.of(total), image: gradients.image, text: gradients.text },
      plan,
    };
  },
  train: async () => {
    losses.push(await training.step());
    return { arrays: { losses: Float32Array.from(losses) } };
  },
};

const cut = ({ softCentroids, entropies }, count = entropies.length) => ({
  softCentroids: softCentroids.subarray(0, (softCentroids.length / entropies.length) * count),
  entropies: entropies.subarray(0, count),
});
// A constant of the data set as long as the centres are frozen: made once, beside the embeddings.
const soft = job.cached
  ? await softTargets(data.teacherImage, data.centroids, { ...kernel, temperature: job.temperature })
  : undefined;

/** Resident memory now and at its highest since the last reset, in bytes; undefined where /proc does not say. */
function memory() {
  try {
    const status = readFileSync('/proc/self/status', 'utf8');
    const field = (name) => 1024 * Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(status)[1]);
    return { now: field('VmRSS'), peak: field('VmHWM') };
  } catch {
    return undefined;
  }
}

function resetPeak() {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
    return true;
  } catch {
    return false;
  }
}

let result;
const commands = {
  warm: async () => {
    if (job.op === 'train') for (let i = 0; i < job.warm; i++) await works.train();
    else await works[job.op](job.op === 'loss' ? 64 : 4096);
    return {};
  },
  run: async () => {
    result = undefined;
    globalThis.gc();
    const before = resetPeak() ? memory() : undefined;
    const usage = process.cpuUsage();
    const start = performance.now();
    result = await works[job.op]();
    const seconds = (performance.now() - start) / 1000;
    const { user, system } = process.cpuUsage(usage);
    const after = memory();
    const size = Object.values(result.arrays).reduce((sum, array) => sum + array.byteLength, 0);
    const extra =
      before && after && !onGpu ? Math.max(0, after.peak - (base ?? before).now - size) / 1e6 : null;
    return { seconds, cpu_s: (user + system) / 1e6, extra_mb: extra, plan: result.plan };
  },
  save: async (folder) => {
    for (const [name, array] of Object.entries(result.arrays)) {
      await writeNpy(join(folder, `${name}.npy`), array, [array.length]);
    }
    return {};
  },
};

process.stdout.write(`${JSON.stringify({ ready: true })}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ');
  process.stdout.write(`${JSON.stringify(await commands[command](argument))}\n`);
}
