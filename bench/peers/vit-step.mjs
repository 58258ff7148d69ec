// Forward and backward of a small vision transformer with the embedding's gradient given, and the whole training step with the
// native loss in between, against PyTorch. Single steps of two persistent processes alternate, so that both see the same machine.
//
//   npm run build:all && node bench/peers/vit-step.mjs [--rounds 15] [--threads 2] [--python /usr/bin/python3]
//
// PyTorch is tuned: an OpenBLAS that shares OpenMP's threads, kernels for this CPU (OPENBLAS_CORETYPE), and a malloc that keeps
// its pages. The environment variables that do it can be overridden from outside.
//
// Measured on 2 cores of a Xeon (Sapphire Rapids), PyTorch 1.13 with OpenBLAS 0.3.21, medians of 15: 457 against 461 ms (0.99)
// with the gradient given, 595 against 468 ms (1.27) for the whole step, which computes the forward pass twice. PyTorch's times
// hold on an idle machine only: its threads spin, and lose several times over to anything else that runs.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { clusterInstanceLoss } from '../../dist/kernels/loss.js';
import { GraphBuilder } from '../../dist/program/builder.js';
import { createExecutor } from '../../dist/program/ort/executor.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    threads: { type: 'string', default: '2' },
    python: { type: 'string', default: '/usr/bin/python3' },
  },
});
const rounds = Number(values.rounds);
const threads = Number(values.threads);
const shape = { image: 64, patch: 8, width: 192, depth: 6, heads: 3, out: 256, batch: 64, threads };

/** Parameters are collected as the graph names them; values are small random numbers. */
const parameters = [];

function buildVit({ image, patch, width, depth, heads, out }) {
  const b = new GraphBuilder('vit');
  const parameter = (name, dims, fill) => {
    const value = new Float32Array(dims.reduce((a, c) => a * c, 1));
    for (let i = 0; i < value.length; i++) value[i] = fill ?? (Math.random() - 0.5) * (3 / dims[0]) ** 0.5;
    parameters.push({ name, dims, value, decay: dims.length > 1, trainable: true });
    return b.parameter(name, dims);
  };
  const linear = (x, name, from, to) =>
    b.op('Add', [b.op('MatMul', [x, parameter(`${name}.w`, [from, to])]), parameter(`${name}.b`, [to], 0)]);
  const norm = (x, name) =>
    b.op('LayerNormalization', [x, parameter(`${name}.w`, [width], 1), parameter(`${name}.b`, [width], 0)], {
      epsilon: 1e-5,
    });
  const index = (i) => b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(i)) });
  const tokens = (image / patch) ** 2;
  const pixels = b.input('pixels', 'float32', ['batch', 3, image, image]);
  const grid = b.op(
    'Conv',
    [pixels, parameter('patch.w', [width, 3, patch, patch]), parameter('patch.b', [width], 0)],
    { kernel_shape: [patch, patch], strides: [patch, patch] },
  );
  const rows = b.op('Transpose', [b.op('Reshape', [grid, b.ints([0, width, tokens])])], { perm: [0, 2, 1] });
  const padded = b.op('Pad', [rows, b.ints([0, 1, 0, 0, 0, 0])]);
  let x = b.op('Add', [padded, parameter('position', [1, tokens + 1, width])]);
  for (let i = 0; i < depth; i++) {
    const qkv = b.op('Reshape', [
      linear(norm(x, `${i}.norm1`), `${i}.qkv`, width, 3 * width),
      b.ints([0, 0, 3 * heads, width / heads]),
    ]);
    const parts = b.ops('Split', [qkv, b.ints([heads, heads, heads])], { axis: 2 }, { outputs: 3 });
    const [q, k, v] = parts.map((part) => b.op('Transpose', [part], { perm: [0, 2, 1, 3] }));
    const scores = b.op('MatMul', [
      b.op('Mul', [q, b.scalar((width / heads) ** -0.5)]),
      b.op('Transpose', [k], { perm: [0, 1, 3, 2] }),
    ]);
    const mixed = b.op('Transpose', [b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v])], {
      perm: [0, 2, 1, 3],
    });
    x = b.op('Add', [x, linear(b.op('Reshape', [mixed, b.ints([0, 0, width])]), `${i}.out`, width, width)]);
    const hidden = linear(norm(x, `${i}.norm2`), `${i}.fc1`, width, 4 * width);
    const erf = b.op('Erf', [b.op('Div', [hidden, b.scalar(Math.SQRT2)])]);
    const gelu = b.op('Mul', [b.op('Mul', [hidden, b.op('Add', [erf, b.scalar(1)])]), b.scalar(0.5)]);
    x = b.op('Add', [x, linear(gelu, `${i}.fc2`, 4 * width, width)]);
  }
  const pooled = b.op('Gather', [norm(x, 'norm'), index(0)], { axis: 1 });
  b.output('embedding', b.op('MatMul', [pooled, parameter('projection', [width, out])]), ['batch', out]);
  return b.build();
}

function startTorch() {
  const openblas = '/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0';
  const tuned = {
    OMP_NUM_THREADS: String(threads),
    OPENBLAS_NUM_THREADS: String(threads),
    OPENBLAS_CORETYPE: 'Cooperlake',
    MALLOC_TRIM_THRESHOLD_: '4294967296',
    MALLOC_MMAP_MAX_: '0',
    MALLOC_TOP_PAD_: '268435456',
    ...(existsSync(openblas) ? { LD_PRELOAD: openblas } : {}),
  };
  const script = fileURLToPath(new URL('./vit_step.py', import.meta.url));
  const child = spawn(values.python, [script, JSON.stringify(shape)], {
    env: { ...tuned, ...process.env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value);
  const run = async (what) => {
    child.stdin.write(`${what}\n`);
    return next();
  };
  return { next, run, stop: () => child.stdin.end() };
}

const random = (length, scale) => Float32Array.from({ length }, () => (Math.random() - 0.5) * scale);
const graph = buildVit(shape);
const executor = await createExecutor({ graphs: { vit: graph }, parameters, threads });
const inputs = {
  pixels: {
    type: 'float32',
    dims: [shape.batch, 3, shape.image, shape.image],
    data: random(shape.batch * 3 * shape.image ** 2, 3),
  },
};
const embedding = {
  type: 'float32',
  dims: [shape.batch, shape.out],
  data: random(shape.batch * shape.out, 0.05),
};
const text = { data: random(shape.batch * shape.out, 1), rows: shape.batch, dim: shape.out };
const update = { rate: 1e-4, decay: 0.01, betas: [0.9, 0.999], epsilon: 1e-8 };

const ours = {
  gradient: () => executor.backward('vit', inputs, { embedding }),
  step: async () => {
    const result = (await executor.forward('vit', inputs, { keep: true })).embedding;
    const image = { data: result.data, rows: shape.batch, dim: shape.out };
    const loss = await clusterInstanceLoss(
      { image, text, clipLogScale: Math.log(14.3) },
      { device: 'cpu', threads, ceWeight: 0, klWeight: 0, instanceWeight: 0 },
    );
    await executor.backward('vit', inputs, { embedding: { ...embedding, data: loss.gradients.image } });
    await executor.update(update);
  },
};

const torch = startTorch();
const about = await torch.next();
const count = parameters.reduce((sum, { value }) => sum + value.length, 0);
console.log(
  `ViT ${JSON.stringify(shape)}, ${count} parameters (PyTorch ${about.torch}: ${about.parameters})`,
);

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
for (const what of ['gradient', 'step']) {
  const times = { ours: [], torch: [] };
  for (let round = -2; round < rounds; round++) {
    const start = performance.now();
    await ours[what]();
    const own = performance.now() - start;
    const peer = await torch.run(what);
    // The first rounds compile and warm up.
    if (round < 0) continue;
    times.ours.push(own);
    times.torch.push(peer);
  }
  const ratios = times.ours.map((own, i) => own / times.torch[i]);
  const name =
    what === 'gradient' ? 'forward + backward, gradient given' : 'whole step, native loss and AdamW';
  console.log(
    `${name}: ours ${median(times.ours).toFixed(0)} ms, PyTorch ${median(times.torch).toFixed(0)} ms, ` +
      `ratio of medians ${(median(times.ours) / median(times.torch)).toFixed(2)}, of minima ` +
      `${(Math.min(...times.ours) / Math.min(...times.torch)).toFixed(2)}, median of pairs ${median(ratios).toFixed(2)}`,
  );
}
torch.stop();
await executor.dispose();
