import {
  existsSync,
  type FSWatcher,
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
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { scorersOf } from '../../src/cskd/run.ts';
import { openRated } from '../../src/data/rated/open.ts';
import { chooseBackbone } from '../../src/student/backbone.ts';
import { exportImageModel } from '../../src/student/image-model.ts';
import { tinyVision, writeRated } from '../cskd/drawn.ts';
import { clipCid, type Ended, objects } from './cli.ts';

/*
 * Both phases over a few tiny images, with encoders of one narrow layer. What is learned does not matter here: that it ends with the
 * same bytes however often it is stopped does.
 */

// Some thirty processes are started here, which a busy machine takes its time for.
vi.setConfig({ testTimeout: 400_000, hookTimeout: 200_000 });

let folder: string;
let config: string;
let list: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-aesthetics-'));
  list = await writeRated(join(folder, 'rated'));
  mkdirSync(join(folder, 'photos'));
  await writeRated(join(folder, 'photos'), 20);
  rmSync(join(folder, 'photos', 'rated.csv'));
  writeFileSync(join(folder, 'photos', 'broken.png'), 'not an image');
  const backbone = await chooseBackbone({ backbone: { ...tinyVision, width: 32 } }, 9);
  const values = new Map(backbone.parameters.map(({ name, value }) => [name, value]));
  await exportImageModel(join(folder, 'clip'), { graph: backbone.graph, values, backbone });
  // A CLIP names its output otherwise.
  const model = join(folder, 'clip', 'onnx', 'vision_model.onnx');
  writeFileSync(
    model,
    Buffer.from(
      readFileSync(model).toString('latin1').replaceAll('pooler_output', 'image_embeds!'),
      'latin1',
    ),
  );
  config = join(folder, 'config.json');
  const training = { steps: 4, batchSize: 8, microBatch: 8, checkpointEvery: 1, validateEvery: 2 };
  writeFileSync(
    config,
    JSON.stringify({
      threads: 2,
      clip: 'clip',
      unlabelled: [
        { data: 'photos', weight: 2 },
        { data: 'rated', weight: 1 },
      ],
      labels: { data: 'rated/rated.csv', count: 12 },
      teacher: { backbone: { ...tinyVision, width: 32 }, train: { steps: 3 } },
      student: { backbone: tinyVision },
      align: { ...training, validation: 0.2, projector: 16 },
      train: { ...training, ratio: 0.5 },
      baselines: true,
      eval: { resamples: 50 },
    }),
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const command = (name: string, run: string, ...more: string[]) => [
  'aesthetics',
  name,
  '--config',
  config,
  '--run',
  join(folder, run),
  '--json',
  ...more,
];

const statuses = (ended: Ended) =>
  objects(ended)
    .filter(({ status }) => status !== undefined)
    .map(({ stage, status }) => [stage, status]);

const ALIGN = ['features-1', 'features-2', 'align-teacher', 'features-1', 'features-2', 'align-student'];
const TRAIN = [
  'scorer-teacher',
  'pseudo-1',
  'pseudo-2',
  'scorer-student',
  'scorer-aligned',
  'scorer-supervised',
  'scorer-teacher-plain',
  'pseudo-plain-1',
  'pseudo-plain-2',
  'scorer-unlabelled',
  'scores',
];

/** Runs a command until a file of that name is written in a stage's folder, or in a part of it, and sends a signal then. */
function stopAt(
  args: readonly string[],
  folder: string,
  file: string,
  signal: NodeJS.Signals,
): Promise<Ended> {
  mkdirSync(folder, { recursive: true });
  const [first, ...rest] = file.split('/');
  return clipCid(args, {
    onStart: (child) => {
      const watchers: FSWatcher[] = [];
      const close = () => {
        for (const watcher of watchers) watcher.close();
      };
      const follow = (path: string, [name, ...more]: string[]) => {
        watchers.push(
          watch(path, (_event, changed) => {
            if (changed !== name) return;
            if (more.length > 0) follow(join(path, name!), more);
            else {
              close();
              child.kill(signal);
            }
          }),
        );
        if (existsSync(join(path, name!)) && more.length > 0) follow(join(path, name!), more);
      };
      follow(folder, [first!, ...rest]);
      child.once('close', close);
    },
  });
}

/** Files under a folder by path. */
function contents(path: string): Record<string, Buffer> {
  const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name)).sort();
  return Object.fromEntries(paths.map((file) => [file.slice(path.length), readFileSync(file)]));
}

describe('a run folder', () => {
  test('both phases with all baselines, and each stage is skipped in the next call', async () => {
    const aligned = await clipCid(command('align', 'whole'));
    expect(aligned.stderr).not.toContain('error');
    expect(aligned.code).toBe(0);
    // The features are the same for both encoders.
    expect(statuses(aligned)).toEqual(
      ALIGN.map((stage, i) => [stage, i === 3 || i === 4 ? 'skipped' : 'done']),
    );
    expect(objects(aligned)[0]).toMatchObject({ rows: 20, skipped: 1, dim: 32 });

    const trained = await clipCid(command('train', 'whole'));
    expect(trained.stderr).not.toContain('error');
    expect(statuses(trained)).toEqual(TRAIN.map((stage) => [stage, 'done']));
    const { scorers } = objects(trained).at(-1) as { scorers: Record<string, { images: number }> };
    expect(Object.keys(scorers)).toEqual([
      'supervised',
      'aligned',
      'unlabelled',
      'student',
      'teacher-plain',
      'teacher',
    ]);
    expect(scorers.student).toMatchObject({ images: 12, srcc: { value: expect.any(Number) }, resamples: 50 });

    const again = await clipCid(command('train', 'whole'));
    expect(statuses(again)).toEqual(TRAIN.map((stage) => [stage, 'skipped']));
    const evaluated = await clipCid(command('eval', 'whole'));
    expect(objects(evaluated)).toEqual([objects(trained).at(-1)]);
    const table = await clipCid(['aesthetics', 'eval', '--run', join(folder, 'whole')]);
    expect(table.stdout).toMatch(/labels alone .*\n\+ alignment .*\n\+ unlabelled images .*\n\+ both /);
    const report = await clipCid(['report', '--run', join(folder, 'whole')]);
    expect(report.code).toBe(0);
  });

  test('what its encoders look at, before alignment and after, is in its report', async () => {
    const run = join(folder, 'whole');
    const record = readFileSync(join(run, 'run.json'), 'utf8');
    const analyze = (...more: string[]) =>
      clipCid(['aesthetics', 'analyze', '--run', run, '--images', '6', '--seed', '3', ...more]);
    const analyzed = await analyze('--json');
    expect(analyzed.stderr).not.toContain('error');
    const names = ['before-student', 'before-teacher', 'after-student', 'after-teacher'];
    expect(objects(analyzed).map(({ name }) => name)).toEqual(names);
    for (const name of names) {
      const found = JSON.parse(readFileSync(join(run, 'analysis', `${name}.json`), 'utf8'));
      expect(found).toMatchObject({
        data: { images: 6 },
        attention: [{ heads: 2 }],
        embeddings: { output: 'pooler_output', dim: name.endsWith('teacher') ? 32 : 24 },
      });
      if (name.startsWith('before')) expect(found.model).toBe('where training starts');
    }
    const { options } = JSON.parse(readFileSync(join(run, 'analysis', 'manifest.json'), 'utf8'));
    expect(options).toMatchObject({ images: 6, seed: 3 });
    expect(JSON.parse(readFileSync(join(run, 'run.json'), 'utf8')).config).toEqual(JSON.parse(record).config);

    const again = await analyze();
    expect(again.stderr).toContain('analyze: was done already');
    expect(again.stdout).toMatch(/^before-student → after-student\n {2}attention distance, px /m);
    expect(again.stdout).toMatch(/^before-teacher → after-teacher\n/m);
    expect((await clipCid(['report', '--run', run])).code).toBe(0);
    expect(readFileSync(join(run, 'report.html'), 'utf8')).toContain('<section id="analysis">');
  });

  test('stopped in every stage, killed or by Ctrl-C, it ends with the same bytes', async () => {
    const at = (name: string) => join(folder, 'stopped', name);
    const stops: [name: 'align' | 'train', stage: string, file: string, signal: NodeJS.Signals][] = [
      ['align', 'features-1', 'store.json', 'SIGKILL'],
      ['align', 'align-teacher', 'last.safetensors', 'SIGINT'],
      ['align', 'align-student', 'last.safetensors', 'SIGKILL'],
      ['align', 'align-student', 'model', 'SIGKILL'],
      ['train', 'scorer-teacher', 'last.safetensors', 'SIGKILL'],
      ['train', 'pseudo-1', 'progress.jsonl', 'SIGKILL'],
      ['train', 'scorer-student', 'last.safetensors', 'SIGINT'],
      ['train', 'scores', 'supervised.json', 'SIGKILL'],
    ];
    let phase = 'align';
    for (const [name, stage, file, signal] of stops) {
      if (name !== phase) expect((await clipCid(command(phase, 'stopped'))).code).toBe(0);
      phase = name;
      const ended = await stopAt(command(name, 'stopped'), at(stage), file, signal);
      const how = signal === 'SIGINT' ? [130, null] : [null, signal];
      expect([ended.code, ended.signal], `${signal} at ${stage}/${file}: ${ended.stderr}`).toEqual(how);
    }
    expect((await clipCid(command('train', 'stopped'))).code).toBe(0);
    for (const part of [
      'align-teacher/model',
      'align-student/model',
      'pseudo-1/img_emb',
      'scorer-student/model',
    ]) {
      expect(contents(at(part)), part).toEqual(contents(join(folder, 'whole', part)));
    }
    for (const name of ['student', 'unlabelled']) {
      const { metrics } = JSON.parse(readFileSync(at(`scores/${name}.json`), 'utf8'));
      expect(metrics).toEqual(
        JSON.parse(readFileSync(join(folder, 'whole/scores', `${name}.json`), 'utf8')).metrics,
      );
    }
  });

  test('another option is refused and says what changed', async () => {
    const refused = await clipCid(command('train', 'whole', '--ratio', '2'));
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/scorer-student: ratio was 0.5 and is 2.*--force/);
  });

  test('training asks for alignment where a CLIP is named, and goes without where none is', async () => {
    const early = await clipCid(command('train', 'early'));
    expect(early.code).toBe(2);
    expect(early.stderr).toContain('run clip-cid aesthetics align first, or leave out clip');
    const bare = join(folder, 'bare.json');
    const { clip: _, unlabelled: __, ...rest } = JSON.parse(readFileSync(config, 'utf8'));
    writeFileSync(bare, JSON.stringify({ ...rest, baselines: false }));
    const plain = await clipCid([
      'aesthetics',
      'train',
      '--config',
      bare,
      '--run',
      join(folder, 'plain'),
      '--json',
    ]);
    expect(plain.stderr).not.toContain('error');
    const names = ['scorer-teacher-plain', 'scorer-supervised', 'scores'];
    expect(statuses(plain).map(([stage]) => stage)).toEqual(names);

    // Of an alignment that was stopped it says how to go on.
    const record = readFileSync(join(folder, 'whole/align-teacher/manifest.json'), 'utf8');
    mkdirSync(join(folder, 'early/align-teacher'), { recursive: true });
    writeFileSync(
      join(folder, 'early/align-teacher/manifest.json'),
      record.replace('"status": "done"', '"status": "running"'),
    );
    const half = await clipCid(command('train', 'early'));
    expect(half.code).toBe(1);
    expect(half.stderr).toMatch(/align-teacher is unfinished: run clip-cid aesthetics align again/);
  });

  test('two learners at once', async () => {
    const mutual = await clipCid(command('train', 'whole', '--mutual', '--force'));
    expect(mutual.stderr).not.toContain('error');
    expect(statuses(mutual).map(([stage]) => stage)).toEqual([
      'scorer-student',
      'scorer-aligned',
      'scorer-supervised',
      'scorer-unlabelled',
      'scores',
    ]);
    expect(existsSync(join(folder, 'whole/scorer-student/teacher-model/config.json'))).toBe(true);
    // The teacher that is measured is the one that learned beside the student, not the one of before.
    expect((await scorersOf(join(folder, 'whole'))).teacher).toMatch(/scorer-student.teacher-model$/);
  });
});

describe('folders of their own', () => {
  test('an aligned encoder, a teacher, a student, scores', async () => {
    const out = (name: string) => join(folder, 'own', name);
    const base = ['--json', '--config', config];
    const aligned = await clipCid(['aesthetics', 'align', ...base, '--out', out('aligned'), '--steps', '2']);
    expect(objects(aligned)).toMatchObject([{ stage: 'align', status: 'done', steps: 2 }]);
    const init = ['--init', join(out('aligned'), 'model')];
    const none = join(folder, 'labels.json');
    const { unlabelled: _, ...labelled } = JSON.parse(readFileSync(config, 'utf8'));
    writeFileSync(none, JSON.stringify(labelled));
    const teacher = await clipCid([
      'aesthetics',
      'train',
      '--json',
      '--config',
      none,
      '--out',
      out('teacher'),
      ...init,
    ]);
    expect(objects(teacher)).toMatchObject([{ stage: 'train', status: 'done', steps: 4 }]);
    const args = ['aesthetics', 'train', ...base, '--out', out('student'), ...init];
    const refused = await clipCid(args);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain('Expected a scorer that rates the unlabelled images for --teacher');
    const student = await clipCid([...args, '--teacher', join(out('teacher'), 'model')]);
    expect(student.stderr).not.toContain('error');

    const model = join(out('student'), 'model');
    const score = ['aesthetics', 'score', '--json', '--model', model, '--shard-size', '8'];
    const photos = [...score, '--data', join(folder, 'photos'), '--out', out('scores')];
    const killed = await stopAt(photos, out('scores'), 'shares/progress.jsonl', 'SIGKILL');
    expect(killed.signal).toBe('SIGKILL');
    const scored = await clipCid(photos);
    expect(objects(scored)[0]).toMatchObject({ stage: 'score', status: 'done', images: 20, skipped: 1 });
    const lines = readFileSync(join(out('scores'), 'scores.csv'), 'utf8')
      .trim()
      .split('\n');
    expect(lines[0]).toBe('image,score,deviation,1,2,3,4,5');
    expect(lines).toHaveLength(21);
    expect(readFileSync(join(out('scores'), 'skipped.csv'), 'utf8')).toMatch(
      /^image,reason\nbroken.png,.*decoded/,
    );
    // What it writes opens as rated images again.
    const rated = await openRated(join(out('scores'), 'scores.csv'));
    expect([rated.length, rated.scale.bins]).toEqual([20, 5]);
    await rated.dispose();
    expect(objects(await clipCid(photos))[0]).toMatchObject({ status: 'skipped' });

    const evaluated = await clipCid(['aesthetics', 'eval', '--json', '--model', model, '--labels', list]);
    expect(objects(evaluated)[0]).toMatchObject({
      name: 'model',
      data: { images: 12 },
      metrics: { images: 12 },
    });
    const written = await clipCid([
      'aesthetics',
      'eval',
      '--json',
      '--model',
      model,
      '--labels',
      list,
      '--out',
      out('eval'),
    ]);
    expect(objects(written)[0]).toMatchObject({ stage: 'scores', status: 'done' });

    // Ratings on another scale can be compared with, but not learned from with this teacher.
    const other = join(folder, 'rated', 'other.csv');
    const [head, ...rows] = readFileSync(list, 'utf8').trim().split('\n');
    expect(head).toBe('image,split,1,2,3,4,5');
    const fewer = rows.map((row) => {
      const [image, split, ...counts] = row.split(',');
      return [
        image,
        split,
        Number(counts[0]) + Number(counts[1]),
        counts[2],
        Number(counts[3]) + Number(counts[4]),
      ];
    });
    writeFileSync(other, ['image,split,0,5,10', ...fewer].join('\n'));
    const elsewhere = await clipCid(['aesthetics', 'eval', '--json', '--model', model, '--labels', other]);
    type Compared = { metrics: object; highest: { key: string; predicted: number }[] };
    const [compared] = objects(elsewhere) as Compared[];
    expect(compared).toMatchObject({ scale: { low: 1, high: 5, bins: 5 }, metrics: { images: 12 } });
    expect(compared!.metrics).not.toHaveProperty('squaredEmd');
    const [own] = objects(evaluated) as Compared[];
    expect(own).not.toHaveProperty('scale');
    expect(compared!.highest.map(({ key }) => key)).toEqual(own!.highest.map(({ key }) => key));
    for (const [i, { predicted }] of own!.highest.entries()) {
      expect(compared!.highest[i]!.predicted).toBeCloseTo(((predicted - 1) / 4) * 10, 6);
    }
    const clash = await clipCid([...args, '--labels', other, '--teacher', model, '--force']);
    expect(clash.code).toBe(1);
    expect(clash.stderr).toContain(
      'Expected a teacher on the scale of the labels, 3 bins from 0 to 10, but it rates on 5 bins from 1 to 5',
    );
  });
});

describe('misuse', () => {
  test.each<[string[], string]>([
    [['align', '--clip', 'x'], 'Expected either --run DIR or --out DIR but received neither'],
    [['align', '--out', 'o'], 'Expected a model folder for clip (--clip) but received nothing'],
    [['align', '--out', 'o', '--clip', 'c'], 'Expected images for unlabelled (--data) but received nothing'],
    [
      ['align', '--out', 'o', '--clip', 'c', '--data', 'a', 'b', '--mix', '1'],
      'Expected 2 numbers over 0 for --mix',
    ],
    [['align', '--out', 'o', '--mix', '1'], 'Expected --data with --mix'],
    [['align', '--out', 'o', '--targets', 'none'], 'Expected one of "cached", "online" for align.targets'],
    [['train', '--out', 'o'], 'Expected images with ratings for labels.data (--labels) but received nothing'],
    [['train', '--out', 'o', '--labels', 'x', '--ratio', '0'], 'Expected a number over 0 for train.ratio'],
    [['train', '--out', 'o', '--labels', 'x', '--backbone', 'vit-x'], 'student.backbone'],
    [['score', '--data', 'x', '--model', 'm'], 'Expected a folder for --out but received nothing'],
    [['train', '--run', 'r', '--labels', 'x', '--teacher', 't'], 'Expected --teacher with --out'],
    [['eval', '--run', 'r', '--model', 'm'], 'Expected --model or --run but received both'],
  ])('%j', async (args, message) => {
    const ended = await clipCid(['aesthetics', ...args], { cwd: folder });
    expect(ended.stderr).toContain(message);
    expect(ended.code).toBe(2);
  });

  test.each<[string, object, RegExp]>([
    ['align', { align: { batchSize: 1000 } }, /at most the number of training items \(\d+\) for batchSize/],
    ['align', { init: 'none.onnx' }, /no model .*none\.onnx/],
    ['align', { backbone: { width: 30, heads: 4 } }, /a divisor of 30 for student\.vision\.heads/],
    ['train', { train: { batchSize: 1000 } }, /at most the number of training items \(\d+\) for batchSize/],
    ['train', { train: { head: -1 } }, /student\.train\.head/],
  ])(
    'the student’s options are checked before the teacher does anything: %s %j',
    async (name, student, message) => {
      const other = join(folder, 'wrong.json');
      const settings = JSON.parse(readFileSync(config, 'utf8'));
      // Training that asks for aligned encoders would end there.
      if (name === 'train') delete settings.clip;
      writeFileSync(other, JSON.stringify({ ...settings, student: { ...settings.student, ...student } }));
      const run = join(folder, 'wrong');
      const ended = await clipCid(['aesthetics', name, '--config', other, '--run', run]);
      expect(ended.stderr).toMatch(message);
      expect(ended.code).not.toBe(0);
      expect(existsSync(run) ? readdirSync(run) : []).toEqual([]);
    },
  );

  test('what is remembered of the run is said, and --forget leaves it behind', async () => {
    const run = join(folder, 'remembering');
    const align = (...flags: string[]) =>
      clipCid([
        ...[
          'aesthetics',
          'align',
          '--run',
          run,
          '--clip',
          join(folder, 'clip'),
          '--data',
          join(folder, 'photos'),
        ],
        ...['--teacher-backbone', 'micro-64', '--backbone', 'micro-64', '--steps', '1', ...flags],
      ]);
    expect((await align('--batch-size', '4', '--seed', '2')).code).toBe(0);
    const again = await align();
    expect(again.code).toBe(0);
    expect(again.stderr).toContain(
      'align: --seed 2, --batch-size 4, as in the run before; --forget goes back to the defaults',
    );
    const other = await align('--forget');
    expect(other.stderr).toMatch(/batchSize was 4 and is not set.*seed was 2 and is 0/);
  });

  test('a model that is no scorer, and images that are not there', async () => {
    const clip = join(folder, 'clip');
    const wrong = await clipCid(
      ['aesthetics', 'score', '--model', clip, '--data', join(folder, 'photos'), '--out', 'o'],
      {
        cwd: folder,
      },
    );
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toContain('is no scorer: its config.json names no scale');
    const missing = await clipCid(
      ['aesthetics', 'score', '--model', clip, '--data', 'nowhere', '--out', 'o'],
      {
        cwd: folder,
      },
    );
    expect(missing.stderr).toMatch(/^error: No such data set: .*nowhere/);
  });

  test('--help of every command has examples', async () => {
    for (const name of ['align', 'train', 'eval', 'analyze', 'score']) {
      const { stdout, code } = await clipCid(['aesthetics', name, '--help']);
      expect(code).toBe(0);
      expect(stdout).toMatch(/Examples:\n {2}\$ clip-cid aesthetics/);
    }
  });
});
