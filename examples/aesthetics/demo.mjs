/**
 * Rates pictures with two small encoders: scenes made of drawings of emoji, with six kinds of faults of known severity, whose ratings are made
 * too. It stands in for photographs that people have rated, as in AVA, and shows what each phase of the method adds: aligning the encoders with the
 * features of a frozen CLIP on scenes without ratings, and learning a teacher's ratings of such scenes.
 *
 *   npm run demo:aesthetics                                  (builds first)
 *   node examples/aesthetics/demo.mjs [--out DIR] [--seed N]
 *
 * The run folder in DIR ends up with all models, DIR/run/report.html and DIR/metrics.json. It can be stopped at any moment; started again, it goes
 * on and ends with the same models, byte for byte. The seed is that of training and of which scenes' ratings may be learned from.
 */
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { clipCid, columns, readJson } from '../emoji/common.mjs';
import { readOptions, readSeeds } from '../emoji/options.mjs';
import { clipFolder, prepareScenes, writeWhole } from './prepare.mjs';
import { ratings, scenes, run as usual } from './settings.mjs';

/** Scorers of a run, from nothing to both phases, and the two teachers. */
export const scorers = {
  supervised: 'labels alone',
  aligned: '+ alignment',
  unlabelled: '+ unlabelled images',
  student: '+ both',
  'teacher-plain': 'teacher, labels alone',
  teacher: 'teacher, + alignment',
};
export const figures = {
  srcc: 'SRCC',
  plcc: 'PLCC',
  accuracy: 'accuracy',
  mse: 'MSE',
  squaredEmd: 'squared EMD',
};

/**
 * Runs the example in a folder, or what is left of it; returns what is in its metrics.json.
 *
 * @param options.data Folder of the scenes, which several runs may share. Defaults to one in `out`.
 * @param options.counts,options.settings Instead of those of settings.mjs.
 */
export async function runDemo(
  out,
  seed,
  { data = join(out, 'data'), counts = scenes, settings = usual } = {},
) {
  const started = performance.now();
  const processor = process.cpuUsage();
  const run = join(out, 'run');
  mkdirSync(out, { recursive: true });
  const { unlabelled, list } = await prepareScenes(data, counts);
  const config = join(out, 'config.json');
  const { labels, ...rest } = settings;
  const whole = {
    clip: clipFolder,
    unlabelled,
    labels: { data: list, ...labels, validation: 0, splitSeed: seed },
    seed,
    ...rest,
  };
  writeWhole(config, `${JSON.stringify(whole, null, 2)}\n`);
  await clipCid('aesthetics', 'align', '--config', config, '--run', run);
  await clipCid('aesthetics', 'train', '--config', config, '--run', run);
  await clipCid('aesthetics', 'analyze', '--run', run, '--images', String(Math.min(400, counts.unlabelled)));
  await clipCid(
    'report',
    '--run',
    run,
    '--title',
    'Made-up ratings of made-up scenes: what alignment and unlabelled images add',
  );

  const models = {};
  for (const name of Object.keys(scorers)) {
    const { model, metrics } = readJson(join(run, 'scores', `${name}.json`));
    models[name] = { parameters: model.parameters };
    for (const figure of Object.keys(figures)) models[name][figure] = metrics[figure].value;
  }
  const { user, system } = process.cpuUsage(processor);
  const result = {
    seed,
    models,
    seconds: (performance.now() - started) / 1000,
    processorSeconds: (user + system) / 1e6,
  };
  writeWhole(join(out, 'metrics.json'), `${JSON.stringify(result, null, 2)}\n`);
  return result;
}

/** The table: a line a scorer. */
export function demoTable(models) {
  const rows = Object.entries(scorers).map(([name, title]) => [
    title,
    models[name].parameters.toLocaleString('en-US'),
    ...Object.keys(figures).map((figure) => models[name][figure].toFixed(3)),
  ]);
  return columns([['Learned from', 'parameters', ...Object.values(figures)], ...rows]);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const values = readOptions('node examples/aesthetics/demo.mjs [--out DIR] [--seed N]', {
    out: { type: 'string' },
    seed: { type: 'string', default: '0' },
  });
  const [seed] = readSeeds('--seed', values.seed);
  const out = resolve(values.out ?? `runs/aesthetics-${seed}`);
  const { models, seconds, processorSeconds } = await runDemo(out, seed);
  console.log(`
${scenes.test} scenes of concepts that none of the models has seen, rated by ${ratings.raters} made-up people; the ratings of ${usual.labels.count} other scenes were learned from:

${demoTable(models)}

The ratings follow from how the scenes were made worse: they stand in for people's, and say nothing of photographs.

Report   ${join(out, 'run', 'report.html')}
Student  ${join(out, 'run', 'scorer-student', 'model')}
Metrics  ${join(out, 'metrics.json')}
Time     ${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s (${Math.round(processorSeconds)} s of processor time)`);
}
