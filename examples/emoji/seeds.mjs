/**
 * Repeats the demo over seeds and prints mean and standard deviation of every score, and how often the student is ahead of the baseline.
 *
 *   npm run build:all && node examples/emoji/seeds.mjs [--seeds 0,1,2] [--out DIR]
 *
 * Runs that are there are not made again.
 */
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { columns, show } from './common.mjs';
import { runDemo } from './demo.mjs';
import { readOptions, readSeeds } from './options.mjs';

const values = readOptions('node examples/emoji/seeds.mjs [--seeds 0,1,2] [--out DIR]', {
  seeds: { type: 'string', default: '0,1,2' },
  out: { type: 'string', default: 'runs' },
});
const seeds = readSeeds('--seeds', values.seeds);

const { spread } = await import('../../dist/index.js');
const runs = [];
for (const seed of seeds) {
  console.log(`Seed ${seed}`);
  runs.push(await runDemo(resolve(values.out, `emoji-${seed}`), seed));
}

const names = Object.keys(runs[0].models);
const rows = [['Held-out concepts', ...names, 'student - baseline', 'ahead']];
const summary = {};
for (const score of Object.keys(runs[0].models.teacher)) {
  const of = (name) => runs.map((run) => run.models[name][score]);
  const cell = ({ mean, deviation }) =>
    deviation === 0
      ? show(score, mean)
      : `${show(score, mean).replace(' %', '')} ± ${show(score, deviation)}`;
  const gains = of('student').map((value, i) => value - of('baseline')[i]);
  const gain = spread(gains);
  const isScore = score !== 'Parameters' && score !== 'Files, MB';
  rows.push([
    score,
    ...names.map((name) => cell(spread(of(name)))),
    isScore ? `${gain.mean >= 0 ? '+' : ''}${cell(gain)}` : '',
    isScore ? `${gains.filter((value) => value > 0).length} of ${gains.length}` : '',
  ]);
  summary[score] = { ...Object.fromEntries(names.map((name) => [name, spread(of(name))])), gain };
}
writeFileSync(
  join(resolve(values.out), 'emoji-seeds.json'),
  `${JSON.stringify({ seeds, summary }, null, 2)}\n`,
);
console.log(`\nMean ± standard deviation over seeds ${seeds.join(', ')}\n\n${columns(rows)}`);
