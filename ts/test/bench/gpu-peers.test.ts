import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { devices } from '../../src/native/devices.ts';
import { packageRoot } from '../../src/native/loader.ts';

const PYTHON = '/usr/bin/python3';
const script = join(packageRoot, 'bench', 'peers', 'gpu', 'run.mjs');
const run = (...args: string[]) => spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });
const withTorch = spawnSync(PYTHON, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0;
const withoutGpu = !devices().devices.some(({ device, usable }) => device.startsWith('cuda') && usable);

test.each<[string[], RegExp]>([
  [[], /Expected one of dedup, kmeans, nearest, loss, train, all but received nothing/],
  [['fly'], /but received fly/],
  [['dedup', '--device', 'gpu'], /Expected 'cuda', 'cuda:N' or 'cpu' for --device but received gpu/],
  [['dedup', '--scale', '0'], /for --scale but received 0/],
  [['dedup', '--rounds', 'many'], /for --rounds but received many/],
  [['dedup', '--work', 'kmeans-10m'], /Expected a work of dedup for --work but received kmeans-10m/],
  [['loss', '--spectrum', 'flat'], /Expected data of this work for --spectrum but received flat/],
  [['all', '--json', '--markdown'], /--json or --markdown but received both/],
  [['all', '--fast'], /'--fast'/],
  [['loss', '--peers', 'torch,jax'], /Expected some of torch, .*inf-cl.* for --peers but received jax/],
])('misuse %j ends with 2', (args, message) => {
  const { status, stdout, stderr } = run(...args);
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
  expect(stdout).toBe('');
});

test('help names where peers come from', () => {
  const { status, stdout } = run('--help');
  expect(status).toBe(0);
  for (const peer of ['flash-kmeans', 'flashlib', 'liger', 'cut-cross-entropy', 'inf-cl']) {
    expect(stdout).toMatch(new RegExp(`${peer} +github.com/`));
  }
});

test.runIf(withoutGpu)('without a GPU it says why, ends with 3 and makes nothing', () => {
  const cache = mkdtempSync(join(tmpdir(), 'clip-cid-gpu-peers-test-'));
  try {
    const { status, stdout, stderr } = run('all', '--cache', join(cache, 'data'));
    expect(stderr).toMatch(/Device 'cuda' is not available: .*\nNothing was measured/);
    expect(status).toBe(3);
    expect(stdout).toBe('');
    expect(readdirSync(cache)).toEqual([]);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});

test('without Python every peer is named, and why', () => {
  const { status, stderr } = run('dedup', '--device', 'cpu', '--python', '/nowhere/python');
  for (const peer of ['torch', 'torch-tf32', 'torch-bf16']) {
    expect(stderr).toMatch(new RegExp(`^${peer} is left out: /nowhere/python does not run`, 'm'));
  }
  expect(status).toBe(1);
});

/** Packages by the names and arguments that the runner calls, in plain torch: what it hands over, and what it makes of the answer. */
const PACKAGES = {
  'flash_kmeans/__init__.py': `
def batch_kmeans_Euclid(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None, verbose=False):
    import torch
    assert x.dim() == 3 and init_centroids.shape == (len(x), n_clusters, x.shape[2]) and tol == 0
    all_labels, all_centres = [], []
    for rows, centres in zip(x, init_centroids):
        for _ in range(max_iters):
            labels = torch.cdist(rows, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, labels, rows)
            sizes = torch.bincount(labels, minlength=n_clusters)
            centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        all_labels.append(labels)
        all_centres.append(centres)
    return torch.stack(all_labels), torch.stack(all_centres), max_iters
`,
  'flashlib/__init__.py': 'from flash_kmeans import batch_kmeans_Euclid as flash_kmeans\n',
  'flashlib/primitives/__init__.py': '',
  'flashlib/primitives/knn.py': `
def flash_knn(x, c, k):
    import torch
    best = torch.cdist(x, c).square().topk(k, largest=False)
    return best.values, best.indices
`,
  'liger_kernel/__init__.py': '',
  'liger_kernel/transformers.py': `
import torch
class LigerFusedLinearCrossEntropyLoss(torch.nn.Module):
    def forward(self, lin_weight, _input, target, bias=None):
        return torch.nn.functional.cross_entropy(_input.float() @ lin_weight.float().T, target)
`,
  'cut_cross_entropy/__init__.py': `
def linear_cross_entropy(e, c, targets):
    import torch
    return torch.nn.functional.cross_entropy(e.float() @ c.float().T, targets)
`,
  'inf_cl/__init__.py': `
def cal_flash_loss(q, k, labels=None, scale=None, head_dim=256):
    import torch
    return torch.nn.functional.cross_entropy(scale * q @ k.T, torch.arange(len(q)))
`,
};

test.runIf(withTorch)('every peer gets its tensors, and agrees', { timeout: 300_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'clip-cid-gpu-peers-test-'));
  try {
    for (const [name, text] of Object.entries(PACKAGES)) {
      const file = join(folder, 'vendor', name);
      mkdirSync(join(file, '..'), { recursive: true });
      writeFileSync(file, text);
    }
    const { stdout, stderr } = run(
      ...['all', '--device', 'cpu', '--scale', '1000', '--rounds', '1', '--json', '--spectrum', 'decaying'],
      ...['--python', PYTHON, '--threads', '2'],
      ...['--cache', join(folder, 'data'), '--vendor', join(folder, 'vendor')],
    );
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { work: string; peer: string; agrees: boolean; device: string });
    expect(lines.filter(({ agrees, device }) => !agrees || device !== 'cpu')).toEqual([]);
    const pairs = lines
      .map(({ work, peer }) => `${work} ${peer}`)
      .filter((pair) => !pair.includes('compile'));
    expect(pairs).toEqual([
      'dedup-100k torch',
      'dedup-100k torch-bf16',
      'dedup-1m torch',
      'dedup-1m torch-bf16',
      'balance-10m null',
      'kmeans-32x131k torch',
      'kmeans-32x131k flash-kmeans',
      'kmeans-32x131k flashlib',
      'kmeans-10m torch',
      'kmeans-10m flash-kmeans',
      'kmeans-10m flashlib',
      'nearest-10k-1m torch',
      'nearest-10k-1m flashlib',
      'loss-4096x20k torch',
      'loss-4096x20k torch-bf16',
      'loss-8192x1m torch',
      'loss-8192x1m torch-bf16',
      'loss-8192x1m-sampled torch',
      'loss-8192x1m-sampled torch-bf16',
      'contrast-16k torch',
      'contrast-16k inf-cl',
      'clusters-4096x100k torch',
      'clusters-4096x100k liger',
      'clusters-4096x100k cut-cross-entropy',
    ]);
    expect(stderr).toMatch(/^torch-tf32 is left out: ValueError: there is no TF32 without a GPU$/m);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.runIf(withTorch && devices().devices[0]!.bfloat16)(
  'two towers in micro-batches lose what torch does',
  { timeout: 300_000 },
  () => {
    const cache = mkdtempSync(join(tmpdir(), 'clip-cid-gpu-peers-test-'));
    try {
      const { stdout } = run(
        ...['train', '--device', 'cpu', '--scale', '1000', '--rounds', '1', '--json'],
        ...['--python', PYTHON, '--threads', '2', '--cache', cache],
      );
      expect(JSON.parse(stdout)).toMatchObject({
        work: 'clip-w192',
        precision: 'bf16',
        peer: 'torch-bf16',
        agrees: true,
        ours_items_per_second: expect.any(Number),
      });
    } finally {
      rmSync(cache, { recursive: true, force: true });
    }
  },
);
