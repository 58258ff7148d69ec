import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  watch,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { readNpy, writeNpy } from '../../src/data/npy.ts';
import { clipCid, objects } from './cli.ts';

// Every command is a process of its own, which a busy machine takes its time for.
vi.setConfig({ testTimeout: 300_000 });

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-stages-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const DIM = 32;

/** Random unit-free rows; every row of a group of `copies` is a slightly disturbed copy of the first. */
function embeddings(rows: number, copies: number, dim = DIM): Float32Array {
  let state = 12345;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  const data = new Float32Array(rows * dim);
  for (let row = 0; row < rows; row++) {
    const first = row - (row % copies);
    for (let i = 0; i < dim; i++) {
      data[row * dim + i] = row === first ? random() : data[first * dim + i]! + 0.01 * random();
    }
  }
  return data;
}

/** A store as clip-retrieval writes it, in two shards, without any image. */
async function clipRetrieval(rows: number, copies: number, dim = DIM): Promise<string> {
  const store = join(folder, 'laion');
  const data = embeddings(rows, copies, dim);
  const half = Math.floor(rows / 2);
  for (const [shard, from, to] of [
    [0, 0, half],
    [1, half, rows],
  ] as const) {
    const name = String(shard).padStart(4, '0');
    await writeNpy(join(store, 'img_emb', `img_emb_${name}.npy`), data.slice(from * dim, to * dim), [
      to - from,
      dim,
    ]);
    mkdirSync(join(store, 'metadata'), { recursive: true });
    const lines = Array.from({ length: to - from }, (_, i) =>
      JSON.stringify({
        image_path: `${String(from + i).padStart(6, '0')}.jpg`,
        caption: `picture ${from + i}`,
        url: 'https://example.org',
      }),
    );
    writeFileSync(join(store, 'metadata', `metadata_${name}.jsonl`), `${lines.join('\n')}\n`);
  }
  return store;
}

const lines = (path: string) =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('balance and cluster on clip-retrieval embeddings', () => {
  test('groups, keeps, clusters; done again it is skipped; changed it is refused until forced', async () => {
    const store = await clipRetrieval(61, 3);
    const out = join(folder, 'balance');
    const balance = ['balance', '--embeddings', store, '--out', out, '--json'];

    const first = await clipCid([...balance, '--threshold', '0.9']);
    expect(first.stderr).not.toContain('error');
    expect(first.code).toBe(0);
    expect(objects(first)).toEqual([
      expect.objectContaining({
        stage: 'balance',
        status: 'done',
        rows: 61,
        kept: 21,
        groups: 21,
        threshold: 0.9,
      }),
    ]);
    const groups = await readNpy(join(out, 'groups.npy'));
    expect(groups.dtype).toBe('int32');
    expect([...groups.data]).toEqual(Array.from({ length: 61 }, (_, row) => row - (row % 3)));
    const keep = await readNpy(join(out, 'keep.npy'));
    expect(keep.dtype).toBe('uint8');
    const kept = lines(join(out, 'kept.jsonl'));
    expect(kept.map(({ row }) => row)).toEqual(
      [...keep.data].flatMap((flag, row) => (Number(flag) === 1 ? [row] : [])),
    );
    expect(kept[0]).toMatchObject({ group: 0, groupSize: 3, url: 'https://example.org' });
    expect(kept.at(-1)).toMatchObject({
      row: 60,
      key: '000060.jpg',
      caption: 'picture 60',
      group: 60,
      groupSize: 1,
    });
    const report = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'));
    expect(report).toMatchObject({
      rule: { kind: 'threshold', threshold: 0.9 },
      funnel: [
        { step: 'embedded', items: 61 },
        { step: 'kept', items: 21 },
      ],
      sizes: [
        { size: 1, groups: 1 },
        { size: 3, groups: 20 },
      ],
    });
    expect(report.largestGroups).toHaveLength(20);
    expect(report.largestGroups[0]).toMatchObject({ label: 0, size: 3 });
    expect(report.largestGroups[0].members[0]).toMatchObject({
      kept: true,
      key: expect.stringMatching(/jpg$/),
    });

    const written = readFileSync(join(out, 'manifest.json'), 'utf8');
    expect(objects(await clipCid([...balance, '--threshold', '0.9']))[0]).toMatchObject({
      status: 'skipped',
      kept: 21,
    });

    const changed = await clipCid([...balance, '--threshold', '0.95']);
    expect(changed.code).toBe(1);
    expect(changed.stderr).toMatch(/threshold was 0\.9 and is 0\.95.*--force/);
    expect(changed.stdout).toBe('');
    expect(readFileSync(join(out, 'manifest.json'), 'utf8')).toBe(written);

    const forced = await clipCid([...balance, '--keep-ratio', '0.5', '--force']);
    expect(forced.code).toBe(0);
    expect(JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')).rule).toMatchObject({
      kind: 'keep-ratio',
      keepRatio: 0.5,
    });

    // Clustering follows what is kept now.
    const cluster = ['cluster', '--embeddings', store, '--kept', join(out, 'kept.jsonl'), '--json'];
    const clusters = join(folder, 'cluster');
    const clustered = await clipCid([...cluster, '--clusters', '5', '--out', clusters]);
    expect(clustered.code).toBe(0);
    const now = lines(join(out, 'kept.jsonl')).length;
    expect(objects(clustered)[0]).toMatchObject({ stage: 'cluster', rows: now, clusters: 5 });
    expect((await readNpy(join(clusters, 'centroids.npy'))).shape).toEqual([5, DIM]);
    const labels = await readNpy(join(clusters, 'labels.npy'));
    expect(labels.shape).toEqual([now]);
    expect(Math.max(...(labels.data as Int32Array))).toBeLessThan(5);
  });

  test('in a run folder the stages find each other, and what was said is remembered', async () => {
    const store = await clipRetrieval(40, 2);
    const run = join(folder, 'run');
    const first = await clipCid([
      'balance',
      '--run',
      run,
      '--embeddings',
      store,
      '--threshold',
      '0.9',
      '--seed',
      '7',
    ]);
    expect(first.code).toBe(0);
    expect(first.stdout).toContain('kept: 20');
    expect(JSON.parse(readFileSync(join(run, 'run.json'), 'utf8'))).toMatchObject({
      version: 1,
      seed: 7,
      config: { seed: 7, balance: { threshold: 0.9 } },
      environment: { node: process.version },
    });
    expect(existsSync(join(run, 'lock'))).toBe(false);
    // Without the flags: the same threshold again, so it is done already.
    const again = await clipCid(['balance', '--run', run, '--embeddings', store, '--json']);
    expect(objects(again)[0]).toMatchObject({ status: 'skipped', threshold: 0.9 });
    expect(again.stderr).toBe(
      'balance: --seed 7, --threshold 0.9, as in the run before; --forget goes back to the defaults\n',
    );
    expect(first.stderr).not.toContain('as in the run before');
    const forgotten = await clipCid(['balance', '--run', run, '--embeddings', store, '--forget']);
    expect(forgotten.stderr).toMatch(/threshold was 0\.9 and is not set/);
    expect(forgotten.stderr).not.toContain('as in the run before');
    // What was refused is not remembered.
    const other = await clipCid(['balance', '--run', run, '--embeddings', store, '--threshold', '0.95']);
    expect(other.code).toBe(1);
    const third = await clipCid(['balance', '--run', run, '--embeddings', store, '--json']);
    expect(objects(third)[0]).toMatchObject({ status: 'skipped', threshold: 0.9 });
    const early = await clipCid(['distill', '--run', run, '--teacher', 'none']);
    expect(early.code).toBe(1);
    expect(early.stderr).toContain('embeddings holds no result of embed. Run clip-cid embed first');
    const clustered = await clipCid([
      ...['cluster', '--run', run, '--embeddings', store, '--kept', join(run, 'balance', 'kept.jsonl')],
      ...['--clusters', '4', '--init', 'k-means||', '--n-init', '3'],
    ]);
    expect(clustered.code).toBe(0);
    const manifest = JSON.parse(readFileSync(join(run, 'cluster', 'manifest.json'), 'utf8'));
    expect(manifest).toMatchObject({
      status: 'done',
      options: { clusters: 4, init: 'k-means||', nInit: 3, seed: 7 },
    });
  });

  test('flags win over the configuration, and one rule for the threshold replaces the other', async () => {
    const store = await clipRetrieval(40, 2);
    const file = join(folder, 'c.json');
    writeFileSync(
      file,
      JSON.stringify({ seed: 3, balance: { keepRatio: 0.7 }, cluster: { clusters: 2, iterations: 5 } }),
    );
    const options = async (stage: string, ...flags: string[]) => {
      const out = mkdtempSync(join(folder, 'out-'));
      const ended = await clipCid([stage, '--config', file, '--embeddings', store, '--out', out, ...flags]);
      expect(ended.stderr).not.toContain('error');
      return JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8')).options;
    };
    expect(await options('balance')).toEqual({ keepRatio: 0.7, tolerance: 0.001 });
    expect(await options('balance', '--threshold', '0.9')).toEqual({ threshold: 0.9 });
    expect(await options('cluster', '--iterations', '9')).toMatchObject({
      clusters: 2,
      iterations: 9,
      seed: 3,
    });
    expect(await options('cluster', '--seed', '0')).toMatchObject({ iterations: 5, seed: 0 });
  });

  test('the result does not depend on the number of threads', async () => {
    const store = await clipRetrieval(301, 2);
    const files = ['groups.npy', 'keep.npy', 'kept.jsonl', 'report.json'];
    for (const threads of ['1', '2']) {
      const ended = await clipCid([
        ...['balance', '--embeddings', store, '--out', join(folder, threads), '--keep-ratio', '0.5'],
        ...['--threads', threads],
      ]);
      expect(ended.code).toBe(0);
    }
    for (const name of files) {
      expect(readFileSync(join(folder, '1', name))).toEqual(readFileSync(join(folder, '2', name)));
    }
  });
});

test('with a limit to its memory, cluster leaves the rows in their files, and the result is the same', async () => {
  const store = await clipRetrieval(301, 2);
  const kept = join(folder, 'kept.jsonl');
  const rows = Array.from({ length: 301 }, (_, row) => row).filter((row) => row % 5 !== 2);
  writeFileSync(kept, rows.map((row) => `${JSON.stringify({ row })}\n`).join(''));
  const base = ['cluster', '--embeddings', store, '--kept', kept, '--clusters', '9', '--iterations', '5'];
  expect((await clipCid([...base, '--out', join(folder, 'free')])).code).toBe(0);
  const limited = [...base, '--max-memory', '16MiB', '--out', join(folder, 'limited')];
  expect((await clipCid(limited)).code).toBe(0);
  for (const name of ['centroids.npy', 'labels.npy', 'report.json']) {
    expect(readFileSync(join(folder, 'limited', name))).toEqual(readFileSync(join(folder, 'free', name)));
  }
  const data = embeddings(150, 2);
  data.fill(0, 3 * DIM, 4 * DIM);
  await writeNpy(join(store, 'img_emb', 'img_emb_0000.npy'), data, [150, DIM]);
  const { code, stderr } = await clipCid([...limited, '--force']);
  expect(code).toBe(1);
  expect(stderr).toContain('row 3 is zero');
});

describe('bad input', () => {
  test('K larger than the data names both and ends with 2', async () => {
    const store = await clipRetrieval(20, 1);
    const { code, stderr } = await clipCid([
      'cluster',
      '--embeddings',
      store,
      '--clusters',
      '21',
      '--out',
      join(folder, 'c'),
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain(
      'Expected at most 20, the number of embeddings, for cluster.clusters but received 21',
    );
  });

  test('is told before --force is', async () => {
    const store = await clipRetrieval(20, 1);
    const out = join(folder, 'c');
    const cluster = ['cluster', '--embeddings', store, '--out', out, '--clusters'];
    expect((await clipCid([...cluster, '5'])).code).toBe(0);
    const wrong = await clipCid([...cluster, '21']);
    expect(wrong.stderr).toContain('for cluster.clusters but received 21');
    expect(wrong.stderr).not.toContain('--force');
    const balance = ['balance', '--embeddings', store, '--out', join(folder, 'b'), '--threshold', '0.9'];
    expect((await clipCid(balance)).code).toBe(0);
    const best = await clipCid([...balance, '--keep', 'best']);
    expect(best.stderr).toMatch(/scores \(balance\.scores, --scores\)/);
    const without = await clipCid([...balance, '--forget']);
    expect(without.stderr).toMatch(/Expected --run with --forget/);
    expect(without.code).toBe(2);
  });

  test('K larger than the data leaves earlier centres in place', async () => {
    const out = join(folder, 'c');
    const cluster = ['cluster', '--embeddings', await clipRetrieval(20, 1), '--out', out, '--clusters'];
    expect((await clipCid([...cluster, '5'])).code).toBe(0);
    const before = readFileSync(join(out, 'centroids.npy'));
    expect((await clipCid([...cluster, '21', '--force'])).code).toBe(2);
    expect(readFileSync(join(out, 'centroids.npy')).equals(before)).toBe(true);
    expect((await clipCid([...cluster, '5'])).code).toBe(0);
  });

  test('a zero embedding is named when it is clustered', async () => {
    const store = await clipRetrieval(20, 1);
    const data = embeddings(10, 1);
    data.fill(0, 3 * DIM, 4 * DIM);
    await writeNpy(join(store, 'img_emb', 'img_emb_0000.npy'), data, [10, DIM]);
    const { code, stderr } = await clipCid([
      'cluster',
      '--embeddings',
      store,
      '--clusters',
      '2',
      '--out',
      join(folder, 'c'),
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain('row 3 is zero');
  });

  test('a shard that was cut short, and a folder that is no store', async () => {
    const store = await clipRetrieval(20, 1);
    const shard = join(store, 'img_emb', 'img_emb_0001.npy');
    writeFileSync(shard, readFileSync(shard).subarray(0, 200));
    const cut = await clipCid([
      'balance',
      '--embeddings',
      store,
      '--threshold',
      '0.9',
      '--out',
      join(folder, 'b'),
    ]);
    expect(cut.code).toBe(1);
    expect(cut.stderr).toContain('img_emb_0001.npy');
    mkdirSync(join(folder, 'empty'));
    const empty = await clipCid([
      ...['balance', '--embeddings', join(folder, 'empty'), '--threshold', '0.9', '--out', join(folder, 'b')],
    ]);
    expect(empty.code).toBe(1);
    expect(empty.stderr).toContain('is no embedding store');
    expect(existsSync(join(folder, 'b', 'report.json'))).toBe(false);
  });

  test('an empty folder of images, and one without any model', async () => {
    mkdirSync(join(folder, 'images'));
    mkdirSync(join(folder, 'model'));
    const empty = await clipCid([
      ...[
        'embed',
        '--data',
        join(folder, 'images'),
        '--model',
        join(folder, 'model'),
        '--out',
        join(folder, 'e'),
      ],
    ]);
    expect(empty.code).toBe(1);
    expect(empty.stderr).toContain(`no images in ${join(folder, 'images')}`);
    writeFileSync(join(folder, 'images', 'a.png'), png);
    for (const model of ['model', 'none']) {
      const { code, stderr } = await clipCid([
        ...[
          'embed',
          '--data',
          join(folder, 'images'),
          '--model',
          join(folder, model),
          '--out',
          join(folder, 'e'),
        ],
      ]);
      expect(code).toBe(1);
      expect(stderr).toContain(join(folder, model));
    }
  });

  test('a full disk (a limit on file sizes): one clear line, nothing half-written, and it goes on afterwards', async () => {
    const store = await clipRetrieval(4000, 1, 8);
    const out = join(folder, 'b');
    const args = ['balance', '--embeddings', store, '--threshold', '0.999', '--out', out];
    const full = await clipCid(args, { fileLimit: 64 });
    expect(full.code).toBe(1);
    expect(full.stderr).toMatch(/^error: Cannot write .*kept\.jsonl: .*EFBIG/m);
    expect(readdirSync(out).sort()).toEqual(['groups.npy', 'keep.npy', 'manifest.json']);
    const later = await clipCid([...args, '--json']);
    expect(objects(later)[0]).toMatchObject({ status: 'done', rows: 4000 });
    expect(readdirSync(out).sort()).toEqual([
      'groups.npy',
      'keep.npy',
      'kept.jsonl',
      'manifest.json',
      'report.json',
    ]);
  });

  test('a run folder that another process works in', async () => {
    const store = await clipRetrieval(20, 1);
    const run = join(folder, 'run');
    mkdirSync(run);
    writeFileSync(
      join(run, 'lock'),
      JSON.stringify({ pid: process.pid, host: hostname(), started: '2026-01-02T03:04:05Z' }),
    );
    const { code, stderr } = await clipCid([
      'balance',
      '--run',
      run,
      '--embeddings',
      store,
      '--threshold',
      '0.9',
    ]);
    expect(code).toBe(1);
    expect(stderr).toContain(`in use by process ${process.pid} since 2026-01-02T03:04:05Z`);
  });
});

test.each([
  ['balance', ['--keep-ratio', '0.5']],
  ['cluster', ['--clusters', '1000', '--iterations', '1000', '--tolerance', '0']],
])(
  'Ctrl-C ends %s with 130, leaves a stage that is not done, and the same command goes on',
  async (stage, flags) => {
    const store = await clipRetrieval(6000, 1, 256);
    const run = join(folder, 'run');
    const out = join(run, stage);
    mkdirSync(out, { recursive: true });
    const kept = join(folder, 'kept.jsonl');
    writeFileSync(kept, Array.from({ length: 6000 }, (_, row) => `${JSON.stringify({ row })}\n`).join(''));
    const args = [stage, '--run', run, '--embeddings', store, ...flags];
    if (stage === 'cluster') args.push('--kept', kept);
    const stopped = await clipCid(args, {
      onStart: (child) => {
        // The record appears just before the work begins, which is many passes over all rows.
        const watcher = watch(out, (_event, name) => {
          if (name !== 'manifest.json') return;
          watcher.close();
          child.kill('SIGINT');
        });
        child.once('close', () => watcher.close());
      },
    });
    expect(stopped.stderr).toContain('Interrupted. The same command goes on from here.');
    expect([stopped.code, stopped.signal]).toEqual([130, null]);
    expect(stopped.stdout).toBe('');
    expect(JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8')).status).toBe('running');
    expect(existsSync(join(run, 'lock'))).toBe(false);
    expect(existsSync(join(out, 'lock'))).toBe(false);

    const resumed = await clipCid([...args, '--json']);
    expect(resumed.code).toBe(0);
    expect(objects(resumed)[0]).toMatchObject({ stage, status: 'done', rows: 6000 });
  },
);

/** One grey pixel. */
const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==',
  'base64',
);
