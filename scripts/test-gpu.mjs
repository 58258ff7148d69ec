// What has to hold on a GPU: node scripts/test-gpu.mjs [part ...] [--rows N], or npm run test:gpu
//
//   compare      what the CPU and every usable CUDA device make of the same rows is equal to the bit, and their losses to a bound
//                (needs dist/: npm run build:ts)
//   conformance  the conformance suite, on every device (needs the development packages: npm ci)
//   training     the executor on every device: gradients and 200 steps beside ONNX Runtime's, the same bytes every time, runs that go on
//                on another executor, bf16 beside float32, what does not fit in memory; and the command line's benchmark of a step, of
//                two towers in micro-batches too (needs the development packages, and dist/)
//   native       the native test program on every device (needs build/gpu/test_device: npm run build:gpu-test)
//   sanitize     the same under compute-sanitizer's memcheck, racecheck and synccheck (needs compute-sanitizer on the PATH)
//
// All of them by default; a part that lacks what it needs fails, and says how to get it. Starts without npm. Exit codes: 0 all held,
// 1 something did not, 2 misuse, 3 there is no usable CUDA device: nothing was tested.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const NO_DEVICE = 3;
/** Of a loss's gradients, relative to their largest element, and of its terms, relative to logits: that of the conformance suite. */
const LOSS_BOUND = 2e-5;
const PARTS = { compare, conformance, training, native, sanitize };
const root = fileURLToPath(new URL('..', import.meta.url));
const program = join(root, 'build', 'gpu', 'test_device');
const addonFile = process.env.CLIP_CID_ADDON ?? join(root, 'build', 'Release', 'clip_cid.node');

process.exitCode = await main();

async function main() {
  let parsed;
  try {
    parsed = parseArgs({ allowPositionals: true, options: { rows: { type: 'string', default: '20000' } } });
  } catch (error) {
    return misuse(error.message);
  }
  const parts = parsed.positionals.length > 0 ? parsed.positionals : Object.keys(PARTS);
  const unknown = parts.find((part) => !Object.hasOwn(PARTS, part));
  if (unknown !== undefined)
    return misuse(`Expected one of ${Object.keys(PARTS).join(', ')} but received ${unknown}`);
  const rows = Number(parsed.values.rows);
  if (!Number.isInteger(rows) || rows < 100)
    return misuse(`Expected an integer of at least 100 for --rows but received ${parsed.values.rows}`);
  if (!existsSync(addonFile)) return misuse(`There is no ${addonFile}: run npm run build:all first`);

  const addon = createRequire(import.meta.url)(addonFile);
  const gpus = addon.devices().filter(({ device }) => device.startsWith('cuda'));
  const usable = gpus.filter((info) => info.usable);
  if (usable.length === 0) {
    const reason = gpus[0]?.reason ?? addon.cudaStatus();
    console.error(`test:gpu: there is no usable CUDA device, so nothing was tested: ${reason}`);
    return NO_DEVICE;
  }
  const failed = [];
  for (const part of parts) {
    console.log(`test:gpu: ${part}`);
    const asked = { devices: usable.map(({ device }) => device), rows };
    const problem = await Promise.resolve(asked)
      .then(PARTS[part])
      .catch((error) => error.stack);
    if (problem === undefined) continue;
    console.error(`test:gpu: ${part} failed: ${problem}`);
    failed.push(part);
  }
  console.log(failed.length === 0 ? 'test:gpu: all held' : `test:gpu: failed: ${failed.join(', ')}`);
  return failed.length === 0 ? 0 : 1;
}

function misuse(message) {
  console.error(message);
  return 2;
}

/** The parts return what is wrong, or nothing. */
async function compare({ devices, rows }) {
  const entry = join(root, 'dist', 'index.js');
  if (!existsSync(entry)) return `there is no ${entry}: run npm run build:ts`;
  process.env.CLIP_CID_ADDON = addonFile;
  const { balance, kmeans, nearest } = await import(entry);
  const { makeRows, RowSource } = await import(join(root, 'dist', 'bench', 'data.js'));
  const clusters = Math.max(Math.round(rows / 100), 2);
  const wrong = [];
  for (const [dim, spectrum] of [
    [256, 'decaying'],
    [100, 'flat'],
  ]) {
    const data = await makeRows(new RowSource({ dim, spectrum, seed: 1 }), rows);
    const matrix = { data, rows, dim };
    const queries = { data: data.subarray(0, Math.min(rows, 1000) * dim), rows: Math.min(rows, 1000), dim };
    const works = {
      balance: (options) => balance(matrix, { ...options, threshold: 0.9 }),
      'k-means, spherical': (options) => kmeans(matrix, { ...options, clusters, iterations: 8 }),
      'k-means, Euclidean': (options) =>
        kmeans(matrix, { ...options, clusters, iterations: 8, spherical: false, init: 'random' }),
      nearest: (options) => nearest(queries, matrix, { ...options, k: 10 }),
    };
    for (const [name, work] of Object.entries(works)) {
      const wanted = await work({ device: 'cpu' });
      for (const device of devices) {
        for (const options of [{}, { maxDeviceMemory: Math.max(rows * 64, 2 ** 20) }]) {
          const found = await work({ device, ...options });
          const how = options.maxDeviceMemory === undefined ? 'resident' : 'streamed';
          const different = Object.keys(wanted).filter(
            (key) => key !== 'plan' && key !== 'device' && !sameBits(wanted[key], found[key]),
          );
          console.log(
            `  ${device} ${name}, D ${dim}, ${how}: ${different.length === 0 ? 'equal' : 'DIFFERENT'}`,
          );
          if (different.length > 0) wrong.push(`${name} (${different.join(', ')}) on ${device}, ${how}`);
        }
      }
    }
  }
  wrong.push(...(await compareLosses(devices, rows)));
  return wrong.length === 0 ? undefined : wrong.join('; ');
}

/** The loss with all its terms: the CPU's within a bound, and a device's own from run to run to the bit. */
async function compareLosses(devices, rows) {
  const { clusterInstanceLoss, softTargets } = await import(join(root, 'dist', 'index.js'));
  const { lossBatch } = await import(join(root, 'dist', 'bench', 'inputs.js'));
  const wrong = [];
  const [batch, clusters, dim] = [Math.min(rows, 1000), rows, 512];
  const data = await lossBatch(batch, clusters, { dim, spectrum: 'decaying', seed: 1 });
  const matrix = (values, count = batch) => ({ data: values, rows: count, dim });
  const centroids = matrix(data.centroids, clusters);
  const logScale = Math.log(1 / 0.07);
  const inputs = {
    image: matrix(data.image),
    text: matrix(data.text),
    teacherImage: matrix(data.teacherImage),
    teacherText: matrix(data.teacherText),
    clipLogScale: logScale,
    instanceLogScale: logScale,
    centroids,
    labels: data.labels,
  };
  const works = {
    'loss, computed': (options) => clusterInstanceLoss(inputs, { ...options, learnedCentroids: true }),
    'loss, cached': async (options) =>
      clusterInstanceLoss(
        { ...inputs, softTargets: await softTargets(inputs.teacherImage, centroids, options) },
        options,
      ),
  };
  for (const [name, work] of Object.entries(works)) {
    const wanted = await work({ device: 'cpu' });
    for (const device of devices) {
      const found = await work({ device });
      const again = sameBits(found, await work({ device }));
      // Logits are up to 20 here, and a mean over the batch errs less than they do.
      const terms = ['total', 'clip', 'clusterCe', 'clusterKl', 'instance'];
      const ofTerms = Math.max(...terms.map((term) => Math.abs(found[term] - wanted[term]))) / 20;
      const gradients = Object.keys(wanted.gradients).filter((key) =>
        ArrayBuffer.isView(wanted.gradients[key]),
      );
      const ofGradients = Math.max(
        ...gradients.map((key) => relativeError(found.gradients[key], wanted.gradients[key])),
      );
      const good = again && ofTerms <= LOSS_BOUND && ofGradients <= LOSS_BOUND;
      console.log(
        `  ${device} ${name}, B ${batch}, K ${clusters}, D ${dim}: terms off by ${ofTerms.toExponential(1)} of logits, ` +
          `gradients by ${ofGradients.toExponential(1)}, ${again ? 'the same' : 'DIFFERENT'} in the second run`,
      );
      if (!good) wrong.push(`${name} on ${device}`);
    }
  }
  return wrong;
}

/** Largest difference over the largest element. */
function relativeError(found, wanted) {
  let error = 0;
  let size = 0;
  for (let i = 0; i < wanted.length; i++) {
    error = Math.max(error, Math.abs(found[i] - wanted[i]));
    size = Math.max(size, Math.abs(wanted[i]));
  }
  return error === 0 ? 0 : error / size;
}

function sameBits(a, b) {
  if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b))
    return (
      Buffer.compare(
        new Uint8Array(a.buffer, a.byteOffset, a.byteLength),
        new Uint8Array(b.buffer, b.byteOffset, b.byteLength),
      ) === 0
    );
  if (typeof a === 'object' && a !== null && typeof b === 'object' && b !== null)
    return Object.keys(a).every((key) => sameBits(a[key], b[key]));
  return Object.is(a, b);
}

function conformance() {
  return suite(join('ts', 'test', 'kernels', 'conformance.test.ts'));
}

function training({ devices }) {
  const entry = join(root, 'dist', 'cli', 'main.js');
  if (!existsSync(entry)) return `there is no ${entry}: run npm run build:ts`;
  const files = [
    ...['native', 'precision', 'sizes'].map((name) => join('program', `${name}.test.ts`)),
    join('student', 'device-loss.test.ts'),
  ];
  const problem = suite(...files.map((file) => join('ts', 'test', file)));
  if (problem !== undefined) return problem;
  const models = [
    ['--precision', 'float32'],
    ['--precision', 'bf16'],
    ['--precision', 'bf16', '--model', 'clip-w192', '--micro-batch', '16'],
  ];
  for (const device of devices) {
    for (const model of models) {
      const options = ['--device', device, '--repeat', '10', ...model];
      const failed = run(process.execPath, [entry, 'bench', 'train', ...options], {
        CLIP_CID_ADDON: addonFile,
      });
      if (failed !== undefined) return failed;
    }
  }
}

/** Runs files of tests, on every device that there is. */
function suite(...files) {
  let vitest;
  try {
    vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  } catch {
    return 'vitest is not installed: run npm ci';
  }
  return run(process.execPath, [vitest, 'run', ...files], { CLIP_CID_ADDON: addonFile });
}

function native() {
  if (!existsSync(program)) return `there is no ${program}: run npm run build:gpu-test`;
  // With the mainloop of the device, and with the one that all have.
  return run(program, []) ?? run(program, [], { CLIP_CID_CUDA_MAINLOOP: 'sm_80' });
}

function sanitize() {
  if (!existsSync(program)) return `there is no ${program}: run npm run build:gpu-test`;
  for (const tool of ['memcheck', 'racecheck', 'synccheck']) {
    console.log(`test:gpu: ${tool}`);
    const problem = run('compute-sanitizer', ['--tool', tool, '--error-exitcode', '9', program]);
    if (problem !== undefined) return `${tool}: ${problem}`;
  }
}

function run(command, args, variables = {}) {
  const { error, status, signal } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...variables },
  });
  if (error !== undefined) return `${command} could not be started (${error.message})`;
  return status === 0 ? undefined : `${command} ended with ${status ?? signal}`;
}
