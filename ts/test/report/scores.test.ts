import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readScores } from '../../src/cskd/summary.ts';
import { writeReport } from '../../src/report/report.ts';

let root: string;
let page: string;

const estimate = (value: number | null) => ({
  value,
  low: value === null ? null : value - 0.02,
  high: value === null ? null : value + 0.02,
  ...(value === null && { reason: 'the predicted scores are all equal' }),
});

function result(srcc: number | null, mse: number) {
  const image = (name: string, predicted: number) => ({
    key: name,
    image: join(root, `${name}.png`),
    predicted,
    given: predicted + 0.25,
  });
  return {
    model: { folder: 'm', hash: 'h', dim: 5, imageSize: 16, parameters: 12345, bytes: 1 },
    data: { source: 's', images: 400, skipped: 0 },
    metrics: {
      images: 400,
      srcc: estimate(srcc),
      plcc: estimate(0.5),
      accuracy: estimate(0.75),
      mse: estimate(mse),
      squaredEmd: estimate(mse / 10),
      threshold: 5,
      seed: 0,
      resamples: 1000,
      confidence: 0.95,
    },
    highest: [image('best', 9.5), image('gone', 9)],
    lowest: [image('worst & <odd>', 1.25)],
  };
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'report-scores-'));
  await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
    .png()
    .toFile(join(root, 'best.png'));
  const folder = join(root, 'run', 'scores');
  mkdirSync(folder, { recursive: true });
  const results = { supervised: result(null, 2), student: result(0.9, 0.5), teacher: result(0.8, 0.75) };
  const outputs = Object.keys(results).map((name) => ({
    path: `${name}.json`,
    bytes: 1,
    modified: 0,
    hash: '',
  }));
  for (const [name, value] of Object.entries(results)) {
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(value));
  }
  // Left by an earlier measurement: not among the outputs.
  writeFileSync(join(folder, 'aligned.json'), JSON.stringify(result(0.99, 0.1)));
  const manifest = {
    version: 1,
    package: '0.1.0',
    stage: 'scores',
    status: 'done',
    inputs: {},
    options: {},
    started: '2026-01-01T10:00:00.000Z',
    finished: '2026-01-01T10:00:05.000Z',
    outputs,
    summary: {},
  };
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest));
  writeFileSync(
    join(folder, 'spread.json'),
    JSON.stringify({
      title: 'Three seeds.',
      columns: ['SRCC'],
      rows: [{ name: 'labels alone', values: [{ mean: 0.5, deviation: 0.0123 }] }],
    }),
  );
  page = readFileSync(await writeReport(join(root, 'run')), 'utf8');
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

test('scorers in the order of what they learned from, with intervals, the best of each column bold', async () => {
  expect((await readScores(join(root, 'run'))).map(({ name }) => name)).toEqual([
    'supervised',
    'student',
    'teacher',
  ]);
  const rows = [...page.matchAll(/<th scope="row">([^<]+)<\/th>\n<td class="number">12,345/g)].map(
    ([, name]) => name,
  );
  expect(rows).toEqual(['labels alone', '+ both', 'teacher, + alignment']);
  expect(page).toContain('<td class="number best">0.900 <span class="quiet">[0.880, 0.920]</span></td>');
  expect(page).toContain('<td class="number best">0.500 <span class="quiet">[0.480, 0.520]</span></td>');
  expect(page).toContain('<td class="number" title="the predicted scores are all equal">not defined</td>');
  // PLCC and accuracy are the same everywhere, and so have no best.
  expect(page.match(/number best/g)).toHaveLength(3);
  expect(page).toContain('0.500 ± 0.012');
});

test('a gallery of what was rated highest and lowest, also where a picture is gone', () => {
  expect(page).toMatch(/<img class="thumb" src="data:image\/webp[^>]+>9\.50<br><span class="quiet">9\.75/);
  expect(page).toMatch(/class="thumb missing" title="gone">gone<\/span>9\.00/);
  expect(page).toContain('worst &amp; &lt;odd&gt;');
});

test('a run that measured nothing has no such section', async () => {
  expect(await readScores(root)).toEqual([]);
});
