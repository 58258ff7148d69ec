/**
 * Repeats the example over seeds and prints mean and standard deviation of every figure, and what each phase adds, seed by seed.
 *
 *   npm run build:all && node examples/aesthetics/seeds.mjs [--seeds 0,1,2] [--out DIR]
 *
 * Runs that are there are not made again. The scenes are the same for all; the report of each run then also has the table over seeds.
 */
import { join, resolve } from 'node:path';
import { clipCid, columns } from '../emoji/common.mjs';
import { readOptions, readSeeds } from '../emoji/options.mjs';
import { figures, runDemo, scorers } from './demo.mjs';
import { writeWhole } from './prepare.mjs';

const values = readOptions('node examples/aesthetics/seeds.mjs [--seeds 0,1,2] [--out DIR]', {
  seeds: { type: 'string', default: '0,1,2' },
  out: { type: 'string', default: 'runs' },
});
const seeds = readSeeds('--seeds', values.seeds);

const { spread } = await import('../../dist/index.js');
const folder = (seed) => resolve(values.out, `aesthetics-${seed}`);
const runs = [];
for (const seed of seeds) {
  console.log(`Seed ${seed}`);
  runs.push(await runDemo(folder(seed), seed, { data: resolve(values.out, 'aesthetics-data') }));
}

const names = Object.keys(scorers);
const keys = Object.keys(figures);
const of = (name, figure) => runs.map(({ models }) => models[name][figure]);
const table = Object.fromEntries(
  names.map((name) => [name, Object.fromEntries(keys.map((figure) => [figure, spread(of(name, figure))]))]),
);
/** Differences of two scorers of the same seed. */
const gains = [
  ['alignment, over labels alone', 'aligned', 'supervised'],
  ['alignment, where there are unlabelled images', 'student', 'unlabelled'],
  ['unlabelled images, over labels alone', 'unlabelled', 'supervised'],
  ['unlabelled images, where there is alignment', 'student', 'aligned'],
  ['both, over labels alone', 'student', 'supervised'],
].map(([title, more, less]) => {
  const differences = of(more, 'srcc').map((value, i) => value - of(less, 'srcc')[i]);
  return { title, ...spread(differences), ahead: differences.filter((value) => value > 0).length };
});

const title = `Mean and standard deviation over seeds ${seeds.join(', ')}: of training, and of which labels were learned from.`;
writeWhole(
  join(resolve(values.out), 'aesthetics-seeds.json'),
  `${JSON.stringify({ seeds, table, gains }, null, 2)}\n`,
);
for (const seed of seeds) {
  const run = join(folder(seed), 'run');
  const rows = names.map((name) => ({
    name: scorers[name],
    values: keys.map((figure) => table[name][figure]),
  }));
  writeWhole(
    join(run, 'scores', 'spread.json'),
    `${JSON.stringify({ title, columns: Object.values(figures), rows }, null, 2)}\n`,
  );
  await clipCid(
    'report',
    '--run',
    run,
    '--title',
    'Made-up ratings of made-up scenes: what alignment and unlabelled images add',
  );
}
const cell = ({ mean, deviation }) => `${mean.toFixed(3)} ± ${deviation.toFixed(3)}`;
console.log(`
${title}

${columns([
  ['Learned from', ...Object.values(figures)],
  ...names.map((name) => [scorers[name], ...keys.map((figure) => cell(table[name][figure]))]),
])}

What each phase adds to the rank correlation (SRCC) of the same seed:

${columns([
  ['', 'gain', 'ahead'],
  ...gains.map(({ title: what, mean, deviation, ahead }) => [
    what,
    `${mean >= 0 ? '+' : ''}${cell({ mean, deviation })}`,
    `${ahead} of ${seeds.length}`,
  ]),
])}`);
