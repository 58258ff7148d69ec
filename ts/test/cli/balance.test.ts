import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readNpy, writeNpy } from '../../src/data/npy.ts';
import { balance } from '../../src/kernels/balance.ts';
import { balanceAgainst } from '../../src/kernels/incremental.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import { semdedup } from '../../src/kernels/semdedup.ts';
import { chunked, convert, makeRows } from '../kernels/data.ts';
import * as reference from '../reference/pairs.ts';
import { clipCid, objects } from './cli.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-balance-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A store of two shards. */
async function store(name: string, matrix: Matrix): Promise<string> {
  for (const [index, { data, rows, dim }] of chunked(matrix, [Math.floor(matrix.rows / 3)]).entries()) {
    await writeNpy(join(folder, name, 'img_emb', `img_emb_${index}.npy`), data, [rows, dim]);
  }
  return join(folder, name);
}

const matrix = makeRows({ rows: 150, dim: 16, seed: 3, kind: 'clusters' });

async function run(args: readonly string[]) {
  const ended = await clipCid(['balance', ...args, '--json', '--quiet']);
  expect(ended.stderr).toBe('');
  expect(ended.code).toBe(0);
  return objects(ended)[0]!;
}

const array = async (...path: string[]) => (await readNpy(join(folder, ...path))).data;
const json = (...path: string[]) => JSON.parse(readFileSync(join(folder, ...path), 'utf8'));

describe('balance', () => {
  test('a threshold means the same in every unit, and is recorded as a cosine', async () => {
    const embeddings = await store('e', matrix);
    const base = ['--embeddings', embeddings, '--out', join(folder, 'out')];
    const done = await run([...base, '--threshold', '0.5', '--metric', 'euclidean']);
    const { groups, edges } = await balance(matrix, { threshold: 0.875 });
    expect(done).toMatchObject({ status: 'done', threshold: 0.875, kept: groups, edges });
    expect(await run([...base, '--threshold', '0.125', '--metric', 'cosine-distance'])).toMatchObject({
      status: 'skipped',
    });
    expect(await run([...base, '--threshold', '0.875', '--max-memory', '16MiB'])).toMatchObject({
      status: 'skipped',
    });
  });

  test('keeps by policy and splits wide groups, and both are in the record', async () => {
    const embeddings = await store('e', convert(matrix, 'float16'));
    const scores = Float32Array.from({ length: 150 }, (_, row) => (row * 37) % 150);
    await writeNpy(join(folder, 'scores.npy'), scores, [150]);
    const half = convert(matrix, 'float16');
    const cases = [
      [['--keep', 'hard'], { keep: 'hard' }, { keep: 'hard' }],
      [['--keep', 'random', '--seed', '5'], { keep: { random: 5 } }, { keep: 'random', seed: 5 }],
      [
        ['--keep', 'best', '--scores', join(folder, 'scores.npy')],
        { keep: { best: scores } },
        { keep: 'best' },
      ],
      [['--max-diameter', '0.05', '--max-memory', '20MB'], { maxDiameter: 0.05 }, { maxDiameter: 0.05 }],
    ] as const;
    for (const [index, [flags, options, recorded]] of cases.entries()) {
      const out = join(folder, `out-${index}`);
      await run(['--embeddings', embeddings, '--out', out, '--threshold', '0.85', ...flags]);
      const wanted = await balance(half, { threshold: 0.85, ...options });
      expect(await array(`out-${index}`, 'keep.npy')).toEqual(wanted.keep);
      expect(await array(`out-${index}`, 'groups.npy')).toEqual(wanted.labels);
      expect(json(`out-${index}`, 'manifest.json').options).toEqual({ threshold: 0.85, ...recorded });
      expect(json(`out-${index}`, 'report.json')).toMatchObject({
        method: 'balance',
        plan: expect.any(String),
      });
    }
  });

  test('writes the pairs for numpy and as a table', async () => {
    const embeddings = await store('e', matrix);
    const wanted = reference.pairs(matrix, 0.9);
    expect(wanted.length).toBeGreaterThan(100);
    const order = (a: readonly number[], b: readonly number[]) => a[0]! - b[0]! || a[1]! - b[1]!;

    await run([
      '--embeddings',
      embeddings,
      '--out',
      join(folder, 'a'),
      '--threshold',
      '0.9',
      '--pairs',
      'tsv',
    ]);
    const [head, ...lines] = readFileSync(join(folder, 'a', 'pairs.tsv'), 'utf8')
      .trimEnd()
      .split('\n');
    expect(head).toBe('first\tsecond\tcosine');
    expect(lines.map((line) => line.split('\t').map(Number)).sort(order)).toEqual(wanted);

    await run([
      '--embeddings',
      embeddings,
      '--out',
      join(folder, 'b'),
      '--threshold',
      '0.9',
      '--pairs',
      'npy',
    ]);
    const file = readFileSync(join(folder, 'b', 'pairs.npy'));
    const body = 10 + file.readUInt16LE(8);
    expect(body % 64).toBe(0);
    expect(file.toString('latin1', 10, body)).toBe(
      `${`{'descr': [('first', '<i4'), ('second', '<i4'), ('cosine', '<f8')], 'fortran_order': False, 'shape': (${wanted.length},), }`.padEnd(body - 11)}\n`,
    );
    const records = Array.from({ length: (file.length - body) / 16 }, (_, at) => [
      file.readInt32LE(body + 16 * at),
      file.readInt32LE(body + 16 * at + 4),
      file.readDoubleLE(body + 16 * at + 8),
    ]);
    expect(records.sort(order)).toEqual(wanted);
    const { outputs, options } = json('b', 'manifest.json');
    expect(outputs.map(({ path }: { path: string }) => path)).toContain('pairs.npy');
    expect(options).toEqual({ threshold: 0.9, pairs: 'npy' });
  });

  test('against an earlier store drops what is there already', async () => {
    const [before, after] = chunked(matrix, [60]) as [Matrix, Matrix];
    await store('old', before);
    await store('new', after);
    const old = await balance(before, { threshold: 0.9 });
    await run(['--embeddings', join(folder, 'old'), '--out', join(folder, 'first'), '--threshold', '0.9']);
    const flags = [
      ...['--embeddings', join(folder, 'new'), '--threshold', '0.9', '--against', join(folder, 'old')],
      ...['--against-keep', join(folder, 'first', 'keep.npy'), '--out', join(folder, 'second')],
    ];
    const done = await run(flags);
    const kept = [...old.keep.keys()].filter((row) => old.keep[row] === 1);
    const stored: Matrix = {
      data: Float32Array.from(kept.flatMap((row) => [...before.data.subarray(row * 16, row * 16 + 16)])),
      rows: kept.length,
      dim: 16,
    };
    const wanted = await balanceAgainst(after, stored, { threshold: 0.9 });
    expect(wanted.duplicates).toBeGreaterThan(10);
    expect(done).toMatchObject({
      rows: 90,
      kept: wanted.groups,
      duplicates: wanted.duplicates,
      bridges: wanted.bridges.length,
      groups: wanted.groups,
    });
    expect(await array('second', 'keep.npy')).toEqual(wanted.keep);
    expect(await array('second', 'groups.npy')).toEqual(wanted.labels);
    expect([...(await array('second', 'duplicates.npy'))]).toEqual(
      Array.from(wanted.duplicateOf, (row) => (row === -1 ? -1 : kept[row])),
    );
    const report = json('second', 'report.json');
    expect(report).toMatchObject({
      rows: 90,
      removed: 90 - wanted.groups,
      against: { stored: kept.length, duplicates: wanted.duplicates, links: wanted.links },
      funnel: [
        { step: 'embedded', items: 90 },
        { step: 'not in the earlier store', items: 90 - wanted.duplicates },
        { step: 'kept', items: wanted.groups },
      ],
    });
    const sizes = report.sizes as { size: number; groups: number }[];
    expect(sizes.reduce((sum, { size, groups }) => sum + size * groups, 0)).toBe(90 - wanted.duplicates);
    expect(await run(flags)).toMatchObject({ status: 'skipped' });
    const all = await run([...flags.slice(0, 6), '--out', join(folder, 'third')]);
    expect(all.duplicates).toBe((await balanceAgainst(after, before, { threshold: 0.9 })).duplicates);
  });

  test('as SemDeDup, to compare with', async () => {
    const embeddings = await store('e', matrix);
    const out = join(folder, 'out');
    const flags = [
      '--embeddings',
      embeddings,
      '--threshold',
      '0.9',
      '--semdedup',
      '7',
      '--seed',
      '3',
      '--out',
      out,
    ];
    const done = await run(flags);
    const wanted = await semdedup(matrix, { threshold: 0.9, clusters: 7, seed: 3 });
    expect(wanted.kept).toBeLessThan(140);
    expect(done).toMatchObject({ rows: 150, kept: wanted.kept, groups: wanted.kept, edges: wanted.pairs });
    expect(await array('out', 'keep.npy')).toEqual(wanted.keep);
    const groups = await array('out', 'groups.npy');
    for (const [row, of] of wanted.duplicateOf.entries()) if (of !== -1) expect(groups[row]).toBe(groups[of]);
    expect(new Set(groups as Int32Array).size).toBe(wanted.kept);
    expect(json('out', 'report.json')).toMatchObject({ method: 'semdedup', kept: wanted.kept });
    expect(json('out', 'manifest.json').options).toEqual({
      threshold: 0.9,
      semdedup: 7,
      keep: 'hard',
      seed: 3,
    });
  });

  test('an estimate writes nothing', async () => {
    const embeddings = await store('e', matrix);
    const { edges } = await balance(matrix, { threshold: 0.9 });
    const args = ['balance', '--embeddings', embeddings, '--threshold', '0.1', '--metric', 'cosine-distance'];
    const text = await clipCid([...args, '--estimate', '--out', join(folder, 'out')]);
    expect(text).toMatchObject({ code: 0, stderr: '' });
    expect(text.stdout).toMatch(/150 embeddings of 16 dimensions/);
    expect(text.stdout).toMatch(/memory: up to [1-9][\d.]* KiB/);
    expect(text.stdout).toMatch(new RegExp(`pairs: ${edges.toLocaleString('en-US')}\n`));
    expect(existsSync(join(folder, 'out'))).toBe(false);
    const [record] = objects(await clipCid([...args, '--estimate', '--json']));
    expect(record).toMatchObject({
      estimate: 'balance',
      rows: 150,
      dim: 16,
      pairs: { expected: edges, low: edges, high: edges },
      seconds: expect.any(Number),
      memory: expect.any(Number),
    });
  });
});

describe('misuse', () => {
  test.each<[string[], RegExp]>([
    [['--threshold', '3', '--metric', 'euclidean'], /at most 2 for balance\.threshold but received 3/],
    [['--threshold', '-0.1', '--metric', 'cosine-distance'], /at least 0 for balance\.threshold/],
    [['--threshold', '0.9', '--metric', 'l2'], /balance\.metric but received "l2"/],
    [['--threshold', '0.9', '--keep', 'last'], /balance\.keep but received "last"/],
    [['--threshold', '0.9', '--keep', 'best'], /scores \(balance\.scores, --scores\)/],
    [['--threshold', '0.9', '--max-memory', 'much'], /Expected bytes, such as '1GiB'/],
    [['--threshold', '0.9', '--max-memory', '1MiB'], /at least 16777216 for maxMemory but received 1048576/],
    [['--threshold', '0.9', '--pairs', 'csv'], /balance\.pairs but received "csv"/],
    [['--semdedup', '5'], /a threshold .*--threshold\) for balance\.semdedup/],
    [
      ['--threshold', '0.9', '--semdedup', '500'],
      /at most 150, the number of embeddings, for balance\.semdedup/,
    ],
    [
      ['--threshold', '0.9', '--semdedup', '5', '--keep', 'best'],
      /'hard', 'easy' or 'random' for balance\.keep/,
    ],
    [['--threshold', '0.9', '--semdedup', '5', '--pairs', 'npy'], /no balance\.pairs/],
    [['--threshold', '0.9', '--against-keep', 'keep.npy'], /balance\.against \(--against\)/],
    [['--estimate'], /balance\.threshold \(--threshold\)/],
  ])('%j', async (flags, message) => {
    const embeddings = await store('e', matrix);
    const args = ['balance', '--embeddings', embeddings, '--out', join(folder, 'out'), ...flags];
    const { code, stdout, stderr } = await clipCid(args);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(existsSync(join(folder, 'out', 'report.json'))).toBe(false);
  });

  test('files that do not belong together', async () => {
    const embeddings = await store('e', matrix);
    await writeNpy(join(folder, 'short.npy'), new Uint8Array(7), [7]);
    await writeNpy(join(folder, 'scores.npy'), new Float32Array(7), [7]);
    const wide = await store('wide', makeRows({ rows: 30, dim: 8, seed: 1, kind: 'normal' }));
    for (const [flags, message] of [
      [['--against', embeddings, '--against-keep', join(folder, 'short.npy')], /uint8 \[150\].*short\.npy/],
      [['--against', wide], /16 dimensions and .*wide of 8/],
      [['--against', join(folder, 'none')], /none/],
      [['--keep', 'best', '--scores', join(folder, 'scores.npy')], /float32 \[150\].*scores\.npy/],
    ] as const) {
      const args = [
        'balance',
        '--embeddings',
        embeddings,
        '--threshold',
        '0.9',
        '--out',
        join(folder, 'out'),
      ];
      const { code, stderr } = await clipCid([...args, ...flags]);
      expect(stderr).toMatch(message);
      expect(code).toBe(1);
    }
  });
});
