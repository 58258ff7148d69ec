/**
 * Trains the demo's student twice, in float32 and in bf16, from the same seed with the same batches, and shows what each step lost and what both
 * know in the end.
 *
 *   npm run build:all && node examples/emoji/precision.mjs [--seeds 0] [--out DIR] [--svg FILE]
 *
 * Both are stages of one run, the one in bf16 in the place of the demo's baseline. Runs that are there are not made again. The chart is the first seed's.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
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

const PRECISIONS = { float32: ['distill', 'student'], bf16: ['baseline', 'baseline'] };
/** Steps whose losses are averaged, in the table and in the chart. */
const MEAN = 20;

const values = readOptions('node examples/emoji/precision.mjs [--seeds 0,1,2] [--out DIR] [--svg FILE]', {
  seeds: { type: 'string', default: '0' },
  out: { type: 'string', default: 'runs' },
  svg: { type: 'string' },
});
const seeds = readSeeds('--seeds', values.seeds);
const runs = [];
for (const seed of seeds) runs.push(await trainBoth(resolve(values.out, `precision-${seed}`), seed));

async function trainBoth(out, seed) {
  const data = join(out, 'data');
  const run = join(out, 'run');
  mkdirSync(out, { recursive: true });
  prepare({ out: data, seed: splitSeed });
  const config = join(out, 'config.json');
  writeFileSync(
    config,
    JSON.stringify({
      ...demo,
      data: join(data, 'train.jsonl'),
      teacher: teacherFolder,
      seed,
      baseline: { precision: 'bf16' },
      eval: evalSection(data),
    }),
  );
  await clipCid('run', config, '--run', run);
  const lines = readJsonl(join(run, 'metrics.jsonl')).filter((line) => 'loss/total' in line);
  const of = ([stage, model]) => ({
    steps: lines.filter((line) => line.stage === stage),
    scores: headline(readJson(join(run, 'eval', `${model}.json`))),
  });
  return Object.fromEntries(Object.entries(PRECISIONS).map(([name, places]) => [name, of(places)]));
}

const mean = (numbers) => numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const [first] = runs;
const names = Object.keys(PRECISIONS);
const count = first.float32.steps.length;

/** Mean loss of the steps up to one. */
const lossAt = (run, name, step) =>
  mean(run[name].steps.slice(Math.max(0, step - MEAN), step).map((line) => line['loss/total']));
const marks = [1, 20, 60, 120, 200, 300, 400, 500, count].filter((step) => step <= count);
const losses = marks.map((step) => [
  String(step),
  ...names.map((name) => lossAt(first, name, step).toFixed(3)),
  mean(
    first.float32.steps
      .slice(Math.max(0, step - MEAN), step)
      .map((line, i) => first.bf16.steps[Math.max(0, step - MEAN) + i]['loss/total'] - line['loss/total']),
  ).toFixed(3),
]);
console.log(`Loss of seed ${seeds[0]}, mean of up to ${MEAN} steps before\n
${columns([['Step', ...names, 'difference'], ...losses])}\n`);

const cell = (name, score) => {
  const all = runs.map((run) => run[name].scores[score]);
  const centre = mean(all);
  const deviation = Math.sqrt(
    mean(all.map((value) => (value - centre) ** 2)) * (all.length / Math.max(1, all.length - 1)),
  );
  const text = show(score, centre);
  return all.length === 1 || deviation === 0 ? text : `${text.replace(' %', '')} ± ${show(score, deviation)}`;
};
const milliseconds = (name) =>
  runs.map((run) =>
    median(run[name].steps.map((line) => (1000 * demo.distill.batchSize) / line['speed/step'])).toFixed(0),
  );
console.log(`Held-out concepts${seeds.length > 1 ? `, mean ± standard deviation over seeds ${seeds.join(', ')}` : `, seed ${seeds[0]}`}\n
${columns([
  ['', ...names],
  ...Object.keys(first.float32.scores).map((score) => [score, ...names.map((name) => cell(name, score))]),
  ['Median step, ms', ...names.map((name) => milliseconds(name).join(', '))],
])}`);

if (values.svg !== undefined) {
  const { lineChart } = await import('../../dist/report/charts.js');
  const series = names.map((name) => ({
    name,
    points: first[name].steps.map((line, i) => [line.step, lossAt(first, name, i + 1)]),
  }));
  const chart = lineChart({ title: 'Loss', x: `step, loss as the mean of ${MEAN}`, series }).text;
  const style = `text { font: 11px sans-serif; fill: #666 } .grid { stroke: #ddd } .line { fill: none; stroke-width: 1.6 }
.line.series-0 { stroke: #0072b2 } .line.series-1 { stroke: #d55e00; stroke-dasharray: 5 3 }`;
  const legend = names
    .map(
      (name, i) =>
        `<text x="360" y="${26 + 16 * i}" style="fill: ${['#0072b2', '#d55e00'][i]}">${name}</text>`,
    )
    .join('');
  const body = /<svg [^>]*>([\s\S]*)<\/svg>/.exec(chart)[1];
  writeFileSync(
    values.svg,
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 240" width="720"><title>Loss in float32 and in bf16, ${count} steps</title><style>${style}</style><rect width="480" height="240" fill="#fff"/>${body}${legend}</svg>\n`,
  );
}
