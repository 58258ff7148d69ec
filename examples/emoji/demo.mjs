/**
 * Distils a small CLIP from the committed teacher on drawings of emoji, beside a student of the same size, data and steps that learns
 * from captions alone, and measures teacher and students on concepts that none of them has seen.
 *
 *   npm run demo                                             (builds first)
 *   node examples/emoji/demo.mjs [--out DIR] [--seed N]
 *
 * The run folder in DIR ends up with the students' model folders, DIR/run/report.html and DIR/metrics.json. It can be stopped
 * at any moment; started again, it goes on and ends with the same students, byte for byte. The seed is that of clustering and
 * training; the split of the data always is the one that the teacher was trained on.
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  clipCid,
  columns,
  evalSection,
  headline,
  readJson,
  readJsonl,
  show,
  teacherFolder,
} from './common.mjs';
import { readOptions, readSeeds } from './options.mjs';
import { prepare } from './prepare.mjs';
import { demo, splitSeed } from './settings.mjs';

/** Runs the demo in a folder, or what is left of it; returns what is in its metrics.json. */
export async function runDemo(out, seed) {
  const started = performance.now();
  const data = join(out, 'data');
  const run = join(out, 'run');
  mkdirSync(out, { recursive: true });
  const { images, concepts } = prepare({ out: data, seed: splitSeed });
  console.log(
    `${images.train} images of ${concepts.train} concepts to learn from; ${images.heldout} of ${concepts.heldout} held out.`,
  );

  const config = join(out, 'config.json');
  const settings = {
    data: join(data, 'train.jsonl'),
    teacher: teacherFolder,
    seed,
    ...demo,
    eval: evalSection(data),
  };
  writeWhole(config, settings);
  await clipCid('run', config, '--run', run);

  const grouping = await judgeGroups(run, data);
  writeWhole(join(run, 'eval', 'grouping.json'), grouping);
  await clipCid('report', '--run', run, '--title', 'Emoji: a student distilled on two cores');

  const models = {};
  for (const name of ['teacher', 'student', 'baseline']) {
    models[name] = headline(readJson(join(run, 'eval', `${name}.json`)));
  }
  const { rule, rows, kept } = readJson(join(run, 'balance', 'report.json'));
  const metrics = {
    seed,
    balance: { rows, kept, threshold: rule.threshold, grouping: grouping.rows },
    models,
    seconds: (performance.now() - started) / 1000,
  };
  writeWhole(join(out, 'metrics.json'), metrics);
  return metrics;
}

/** How well the groups of balancing agree with what the data says of its own images. */
async function judgeGroups(run, data) {
  const { openStore, pairPrecisionRecall, readNpy } = await import('../../dist/index.js');
  const { data: labels } = await readNpy(join(run, 'balance', 'groups.npy'));
  const store = await openStore(join(run, 'embeddings'), { verify: false });
  const items = [];
  for await (const item of store.metadata()) items.push(item);
  const variations = new Map();
  readJsonl(join(data, 'variations.jsonl')).forEach(({ keys }, set) => {
    for (const key of keys) variations.set(key, set);
  });
  const numbers = new Map();
  const numberOf = (name) => {
    if (!numbers.has(name)) numbers.set(name, numbers.size);
    return numbers.get(name);
  };
  const against = {
    'skin-tone variations of one emoji of one vendor': (item) => variations.get(item.key) ?? -1,
    'drawings of one emoji by either vendor': (item) => numberOf(`emoji ${item.emoji}`),
    'drawings of one concept (any gender and direction)': (item) => numberOf(`concept ${item.concept}`),
  };
  return {
    title:
      'Pairs of images in one group, against what the data itself says belongs together. The first line is the strictest: there, a man and a woman ' +
      'of one profession, or both vendors’ drawings of one emoji, count as wrong when they are grouped.',
    rows: Object.entries(against).map(([name, groupOf]) => ({
      against: name,
      ...pairPrecisionRecall(labels, items.map(groupOf)),
    })),
  };
}

/** The table of the README: a line a score, a column a model. */
export function demoTable(models) {
  const names = Object.keys(models);
  const scores = Object.keys(models[names[0]]);
  return columns([
    ['Held-out concepts', ...names],
    ...scores.map((score) => [score, ...names.map((name) => show(score, models[name][score]))]),
  ]);
}

function writeWhole(path, value) {
  writeFileSync(`${path}.tmp`, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(`${path}.tmp`, path);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const values = readOptions('node examples/emoji/demo.mjs [--out DIR] [--seed N]', {
    out: { type: 'string' },
    seed: { type: 'string', default: '0' },
  });
  const [seed] = readSeeds('--seed', values.seed);
  const out = resolve(values.out ?? `runs/emoji-${seed}`);
  const { balance, models, seconds } = await runDemo(out, seed);
  const [variations] = balance.grouping;
  console.log(`
Balance kept ${balance.kept} of ${balance.rows} images at a cosine of ${balance.threshold.toFixed(4)}; against the lists of skin-tone
variations: precision ${show('', variations.precision)}, recall ${show('', variations.recall)}.

${demoTable(models)}

Names of unseen emoji can hardly be known to a model: that line is near chance. Student and baseline have the same size, data and
steps; the baseline learns from captions alone.

Report   ${join(out, 'run', 'report.html')}
Student  ${join(out, 'run', 'student', 'model')}
Metrics  ${join(out, 'metrics.json')}
Time     ${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`);
}
