// Our side of run.mjs: one work in a process that stays, with the same commands and answers as peers.py. Run with --expose-gc.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Training, trainingData } from '../../dist/bench/training.js';
import { npyMatrix, readNpy, writeNpy } from '../../dist/data/npy.js';
import { balance } from '../../dist/kernels/balance.js';
import { kmeans } from '../../dist/kernels/kmeans.js';
import { clusterInstanceLoss, softTargets } from '../../dist/kernels/loss.js';
import { nearest } from '../../dist/kernels/nearest.js';
import { upload } from '../../dist/kernels/rows.js';

const job = JSON.parse(process.argv[2]);
const kernel = { device: job.device ?? 'cpu', threads: job.threads };
const onGpu = kernel.device !== 'cpu';

/** On a GPU rows that are compared, and centres of the loss, lie there already, as the peers' do; `inFile`: rows stay in their file. */
async function load(name, path) {
  const resident = ['rows', 'queries', 'centroids'].includes(name);
  if (job.inFile || (onGpu && resident)) {
    const matrix = await npyMatrix(path);
    return job.inFile ? matrix : upload(matrix, kernel);
  }
  const { data: values, shape } = await readNpy(path);
  return shape.length === 2 ? { data: values, rows: shape[0], dim: shape[1] } : values;
}
const data = {};
for (const [name, path] of Object.entries(job.op === 'train' ? {} : job.files)) {
  data[name] = await load(name, path);
}

/** The first rows of a matrix; without a count, and of one on a device, all of them. */
const head = (matrix, count) => {
  if (count === undefined || !('data' in matrix || 'path' in matrix)) return matrix;
  const rows = Math.min(count, matrix.rows);
  return {
    ...matrix,
    rows,
    ...('data' in matrix ? { data: matrix.data.subarray(0, rows * matrix.dim) } : {}),
  };
};

/** Resident memory that the work's extra is counted from, where it is not what is there before a run. */
let base;
const losses = [];

async function startTraining() {
  const training = trainingData(job);
  globalThis.gc();
  base = memory();
  return Training.start(training, kernel, { precision: job.precision, microBatch: job.microBatch });
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
    const rows = head(data.rows, job.batch === undefined ? count : undefined);
    const centres = head(data.centres, rows === data.rows ? undefined : Math.ceil(count / 64));
    const batch = job.batch ?? 1;
    const { labels, centroids, plan } = await kmeans(rows, {
      ...kernel,
      batch,
      clusters: centres.rows / batch,
      init: centres.data,
      iterations: count === undefined ? job.iterations : 1,
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
    const { image, text, teacherImage, teacherText, centroids, labels, sample } = data;
    const scale = Math.log(job.scale);
    const { clipWeight = 1, ceWeight = 1, klWeight = 1, instanceWeight = 1 } = job.weights ?? {};
    // What only terms of weight 0 would take is left out.
    const { total, gradients, plan } = await clusterInstanceLoss(
      {
        image: head(image, count),
        text: head(text, count),
        ...(clipWeight > 0 ? { clipLogScale: scale } : {}),
        ...(klWeight > 0 || instanceWeight > 0 ? { teacherImage: head(teacherImage, count) } : {}),
        ...(instanceWeight > 0 ? { teacherText: head(teacherText, count), instanceLogScale: scale } : {}),
        ...(ceWeight > 0 ? { labels: labels.subarray(0, count) } : {}),
        ...(ceWeight > 0 || klWeight > 0 ? { centroids, ...(sample === undefined ? {} : { sample }) } : {}),
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

/** Over the second-level cache of any GPU, which it fills. */
const OTHER = onGpu ? { data: new Float32Array(2 ** 26), rows: 2 ** 16, dim: 2 ** 10 } : undefined;

let result;
const commands = {
  warm: async () => {
    if (job.op === 'train') for (let i = 0; i < job.warm; i++) await works.train();
    else await works[job.op](job.op === 'loss' ? 64 : 4096);
    // As the peers on a GPU do, but for what is run once.
    if (onGpu && job.op !== 'train' && !job.inFile) await works[job.op]();
    return {};
  },
  run: async () => {
    result = undefined;
    globalThis.gc();
    if (onGpu) (await upload(OTHER, kernel)).dispose();
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
