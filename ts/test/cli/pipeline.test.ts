import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  watch,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { readMetrics } from '../../src/run/metrics.ts';
import { clipCid, type Ended, objects } from './cli.ts';

/*
 * The whole pipeline over a few tiny images, with towers of one narrow layer. What it learns does not matter here: that it ends
 * with the same bytes however often it is stopped does.
 */

// Some thirty processes are started here, which a busy machine takes its time for.
vi.setConfig({ testTimeout: 400_000, hookTimeout: 200_000 });

let folder: string;
let config: string;
const IMAGES = 24;
const tower = {
  base: 'micro-64',
  embedDim: 16,
  vision: { imageSize: 16, width: 32, layers: 1, heads: 1 },
  text: { contextLength: 12, width: 32, layers: 1, heads: 1 },
};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-pipeline-'));
  const colours = ['red', 'green', 'blue', 'black', 'orange', 'purple'];
  const lines: string[] = [];
  for (let i = 0; i < IMAGES; i++) {
    const colour = colours[i % colours.length]!;
    const file = `${i}.png`;
    const dot = await sharp({ create: { width: 4 + (i % 5), height: 6, channels: 3, background: 'white' } })
      .png()
      .toBuffer();
    await sharp({ create: { width: 20, height: 16, channels: 3, background: colour } })
      .composite([{ input: dot, left: i % 12, top: (i * 5) % 10 }])
      .png()
      .toFile(join(folder, file));
    lines.push(
      JSON.stringify({ key: `item ${i}`, image: file, caption: `a ${colour} card ${i}`, label: colour }),
    );
  }
  writeFileSync(join(folder, 'train.jsonl'), `${lines.join('\n')}\n`);
  writeFileSync(join(folder, 'held.jsonl'), `${lines.slice(0, 12).join('\n')}\n`);
  config = join(folder, 'config.json');
  writeFileSync(
    config,
    JSON.stringify({
      data: 'train.jsonl',
      teacher: 'teacher/model',
      threads: 2,
      embed: { shardSize: 7, batchSize: 4 },
      balance: { keepRatio: 0.8 },
      cluster: { clusters: 4 },
      pretrain: { student: tower, steps: 3, batchSize: 8, vocabSize: 520 },
      distill: {
        student: tower,
        steps: 6,
        batchSize: 8,
        microBatch: 4,
        checkpointEvery: 1,
        validateEvery: 3,
        validation: 0.2,
      },
      eval: { data: 'held.jsonl', tasks: ['zero-shot', 'image-text'], labels: ['label'] },
    }),
  );
  const teacher = await clipCid(['pretrain', '--config', config, '--out', join(folder, 'teacher')]);
  expect(teacher.stderr).not.toContain('error');
  expect(teacher.code).toBe(0);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (name: string, ...more: string[]) => [
  'run',
  config,
  '--run',
  join(folder, name),
  '--json',
  ...more,
];

/** Runs the pipeline until a file of that name is written in a stage's folder, and sends a signal then. */
function stopAt(name: string, stage: string, file: string, signal: NodeJS.Signals): Promise<Ended> {
  const watched = join(folder, name, stage);
  mkdirSync(watched, { recursive: true });
  return clipCid(run(name), {
    onStart: (child) => {
      const watcher = watch(watched, (_event, changed) => {
        if (changed !== file) return;
        watcher.close();
        child.kill(signal);
      });
      child.once('close', () => watcher.close());
    },
  });
}

/** Files under a folder by path. */
function contents(path: string): Record<string, Buffer> {
  const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name)).sort();
  return Object.fromEntries(paths.map((file) => [file.slice(path.length), readFileSync(file)]));
}

/** What was learned when, without what the clock says. */
async function course(name: string) {
  const records = await readMetrics(join(folder, name, 'metrics.jsonl'));
  return records.map((record) =>
    Object.fromEntries(Object.entries(record).filter(([field]) => !field.startsWith('speed/'))),
  );
}

test('every stage in one call, and each is skipped in the next', async () => {
  const first = await clipCid(run('whole'));
  expect(first.stderr).not.toContain('error');
  expect(first.code).toBe(0);
  const stages = objects(first).slice(0, -1);
  expect(stages.map(({ stage, status }) => [stage, status])).toEqual(
    ['embed', 'balance', 'cluster', 'distill', 'eval'].map((stage) => [stage, 'done']),
  );
  expect(stages[0]).toMatchObject({ rows: IMAGES, skipped: 0, texts: true });
  expect(objects(first).at(-1)).toEqual({
    student: join(folder, 'whole', 'student', 'model'),
    report: join(folder, 'whole', 'report.html'),
  });
  expect(readFileSync(join(folder, 'whole', 'report.html'), 'utf8')).toContain('</html>');
  const before = contents(join(folder, 'whole', 'student'));

  const second = await clipCid(run('whole'));
  expect(second.code).toBe(0);
  expect(
    objects(second)
      .slice(0, -1)
      .map(({ status }) => status),
  ).toEqual(Array(5).fill('skipped'));
  expect(contents(join(folder, 'whole', 'student'))).toEqual(before);
});

describe('after the uninterrupted run', () => {
  test('stopped in every stage, killed or by Ctrl-C, it ends with the same bytes', async () => {
    const stops: [stage: string, file: string, signal: NodeJS.Signals][] = [
      ['embeddings', 'progress.jsonl', 'SIGINT'],
      ['embeddings', 'store.json', 'SIGKILL'],
      ['balance', 'keep.npy', 'SIGKILL'],
      ['cluster', 'centroids.npy', 'SIGKILL'],
      ['student', 'manifest.json', 'SIGINT'],
      ['student', 'last.safetensors', 'SIGKILL'],
      ['student', 'last.safetensors', 'SIGINT'],
      ['student', 'best.safetensors', 'SIGKILL'],
      ['student', 'model', 'SIGKILL'],
      ['eval', 'manifest.json', 'SIGINT'],
    ];
    for (const [stage, file, signal] of stops) {
      const ended = await stopAt('stopped', stage, file, signal);
      const how = signal === 'SIGINT' ? [130, null] : [null, signal];
      expect([ended.code, ended.signal], `${signal} at ${stage}/${file}: ${ended.stderr}`).toEqual(how);
    }
    const last = await clipCid(run('stopped'));
    expect(last.stderr).not.toContain('error');
    expect(last.code).toBe(0);
    for (const part of ['embeddings/img_emb', 'embeddings/text_emb', 'student/model']) {
      expect(contents(join(folder, 'stopped', part))).toEqual(contents(join(folder, 'whole', part)));
    }
    for (const file of [
      'balance/kept.jsonl',
      'balance/groups.npy',
      'cluster/labels.npy',
      'cluster/centroids.npy',
    ]) {
      expect(readFileSync(join(folder, 'stopped', file))).toEqual(readFileSync(join(folder, 'whole', file)));
    }
    expect(await course('stopped')).toEqual(await course('whole'));
  });

  test('another option is refused and says what changed; --force makes anew what depends on it and nothing else', async () => {
    const other = join(folder, 'other.json');
    const changed = { ...JSON.parse(readFileSync(config, 'utf8')), cluster: { clusters: 3 } };
    writeFileSync(other, JSON.stringify(changed));
    const args = ['run', other, '--run', join(folder, 'whole'), '--json'];
    const refused = await clipCid(args);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/cluster: clusters was 4 and is 3.*--force/);
    const forced = await clipCid([...args, '--force']);
    expect(forced.code).toBe(0);
    expect(
      objects(forced)
        .slice(0, -1)
        .map(({ status }) => status),
    ).toEqual(['skipped', 'skipped', 'done', 'done', 'done']);
  });

  test('a full disk while a student is trained: one clear line, nothing half-written, and it goes on afterwards', async () => {
    const out = join(folder, 'full');
    const args = [
      ...['distill', '--config', config, '--out', out, '--json'],
      ...['--embeddings', join(folder, 'stopped', 'embeddings')],
      ...['--kept', join(folder, 'stopped', 'balance', 'kept.jsonl')],
      ...['--cluster', join(folder, 'stopped', 'cluster')],
    ];
    const full = await clipCid(args, { fileLimit: 32 });
    expect(full.code).toBe(1);
    expect(full.stderr).toMatch(/^error: Cannot write .*safetensors: .*EFBIG/m);
    expect(readdirSync(out).sort()).toEqual(['manifest.json', 'metrics.jsonl']);
    const later = await clipCid(args);
    expect(objects(later)[0]).toMatchObject({ stage: 'distill', status: 'done', steps: 6 });
    expect(contents(join(out, 'model'))).toEqual(contents(join(folder, 'stopped', 'student', 'model')));
  });

  test('bf16 where the processor lacks it, here for the sake of --simd, is refused before anything is done', async () => {
    const half = join(folder, 'half.json');
    const settings = JSON.parse(readFileSync(config, 'utf8')) as { distill: object };
    writeFileSync(half, JSON.stringify({ ...settings, distill: { ...settings.distill, precision: 'bf16' } }));
    const place = join(folder, 'half');
    const ended = await clipCid(['run', half, '--run', place, '--simd', 'avx2']);
    expect(ended.stderr).toMatch(
      /^error: Expected a processor with dot products of bfloat16 .* for precision/m,
    );
    expect(ended.code).toBe(1);
    expect(existsSync(join(place, 'embeddings'))).toBe(false);
    const alone = join(folder, 'half-alone');
    const pretrained = await clipCid([
      ...['pretrain', '--config', config, '--out', alone],
      ...['--precision', 'bf16', '--simd', 'avx2'],
    ]);
    expect(pretrained.stderr).toMatch(/for precision 'bf16' but received/);
    expect(readdirSync(alone)).toEqual([]);
  });

  test('a student of another precision is another student', async () => {
    const args = ['distill', '--run', join(folder, 'whole'), '--precision'];
    const half = await clipCid([...args, 'bf16']);
    expect(half.stderr).toMatch(/another result of distill: precision was not set and is "bf16"/);
    expect(half.code).toBe(1);
    const same = await clipCid([...args, 'float32', '--json']);
    expect(objects(same)[0]).toMatchObject({ stage: 'distill', status: 'skipped' });
    const none = await clipCid([...args, 'fp16']);
    expect(none.stderr).toMatch(/distill\.precision/);
    expect(none.code).toBe(2);
  });

  test('options that the data do not allow are told before --force is', async () => {
    const place = ['--run', join(folder, 'whole')];
    const large = await clipCid(['distill', ...place, '--batch-size', '1000']);
    expect(large.stderr).toMatch(
      /Expected at most the number of training items \(\d+\) for batchSize but received 1000/,
    );
    expect(large.code).toBe(2);
    const field = await clipCid(['eval', ...place, '--labels', 'colour']);
    expect(field.stderr).toMatch(/No item of .* has a class in the field 'colour'/);
    for (const { stderr } of [large, field]) expect(stderr).not.toContain('another result');
  });

  test('training and evaluation count the same parameters, and a student larger than its teacher is told', async () => {
    const out = join(folder, 'large');
    const trained = await clipCid([
      ...['distill', '--config', config, '--out', out, '--student', 'micro-64', '--steps', '1', '--json'],
      ...['--embeddings', join(folder, 'whole', 'embeddings')],
      ...['--kept', join(folder, 'whole', 'balance', 'kept.jsonl')],
      ...['--cluster', join(folder, 'whole', 'cluster')],
    ]);
    expect(trained.stderr).toMatch(/a student of [\d,]+ parameters \(image tower [\d,]+, text tower/);
    expect(trained.stderr).toContain('Warning: the student is the larger one');
    const [summary] = objects(trained);
    const measured = await clipCid(['eval', '--config', config, '--model', join(out, 'model'), '--json']);
    expect(objects(measured)[0]).toMatchObject({ model: { parameters: summary!.parameters } });
    // The scales of the loss, and the projections to the teacher's width.
    expect(summary!.lossParameters).toBe(2 + 2 * 128 * 16);
  });

  test('images without captions are told at once, with what they are good for', async () => {
    const bare = join(folder, 'bare');
    mkdirSync(bare);
    copyFileSync(join(folder, '1.png'), join(bare, '1.png'));
    const args = ['embed', '--data', bare, '--model', join(folder, 'teacher', 'model')];
    const { code, stderr } = await clipCid([...args, '--out', join(folder, 'bare-embeddings')]);
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /^embed: warning: there are no captions in .*bare.*distill and text retrieval need them/m,
    );
  });

  test('embeddings of another teacher are refused', async () => {
    const other = join(folder, 'teacher-2');
    const made = await clipCid(['pretrain', '--config', config, '--seed', '5', '--out', other]);
    expect(made.code).toBe(0);
    const ended = await clipCid([
      ...['distill', '--config', config, '--teacher', join(other, 'model'), '--out', join(folder, 'wrong')],
      ...[
        '--embeddings',
        join(folder, 'whole', 'embeddings'),
        '--kept',
        join(folder, 'whole', 'balance', 'kept.jsonl'),
      ],
      ...['--cluster', join(folder, 'whole', 'cluster')],
    ]);
    expect(ended.code).toBe(1);
    expect(ended.stderr).toContain('was made by another model');
  });

  test('what was made of an earlier balance is measured, and marked in the output, on the way and in the report', async () => {
    const place = ['--run', join(folder, 'whole')];
    expect((await clipCid(['eval', ...place])).stdout).not.toContain('out of date');
    expect((await clipCid(['balance', ...place, '--keep-ratio', '0.6', '--force'])).code).toBe(0);
    const measured = await clipCid(['eval', ...place, '--force']);
    const line =
      /student is out of date: balance was made anew since.* To make it anew: clip-cid distill --run .* --force/;
    expect(measured.code).toBe(0);
    expect(measured.stderr).toMatch(line);
    expect(measured.stdout).toMatch(line);
    const records = objects(await clipCid(['eval', ...place, '--json']));
    expect(records.map(({ stale }) => stale !== undefined)).toEqual([false, true]);
    const report = await clipCid(['report', ...place, '--json']);
    expect(report.stderr).toMatch(line);
    expect((objects(report)[0]!.stale as { folder: string }[]).map((stage) => stage.folder)).toEqual([
      'cluster',
      'student',
      'eval',
    ]);
    expect(readFileSync(join(folder, 'whole', 'report.html'), 'utf8')).toContain('<h2>Out of date</h2>');
    // A stage over one that is out of date is warned of too; distilling is refused as before.
    const refused = await clipCid(['distill', ...place]);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('was made from another list');
  });
});
