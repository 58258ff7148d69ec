import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { barChart, lineChart, niceTicks } from '../../src/report/charts.ts';
import { formatNumber, formatSeconds, html, table } from '../../src/report/html.ts';
import { writeReport } from '../../src/report/report.ts';
import { makeRun } from './run-folder.ts';

describe('writeReport', () => {
  const root = mkdtempSync(join(tmpdir(), 'report-'));
  let page: string;

  beforeAll(async () => {
    await makeRun(join(root, 'run'));
    const path = await writeReport(join(root, 'run'), { title: 'A & B <run>' });
    expect(path).toBe(join(root, 'run', 'report.html'));
    page = readFileSync(path, 'utf8');
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('shows every part that the run has', () => {
    const ids = [...page.matchAll(/<section id="([^"]+)">/g)].map(([, id]) => id);
    expect(ids).toEqual(['funnel', 'evaluation', 'balance', 'groups', 'clusters', 'training', 'run']);
    for (const id of ids) expect(page).toContain(`href="#${id}"`);
    for (const text of [
      '3,378', // kept
      '56.3 %', // share of what was embedded
      '0.987654321', // threshold
      'The cosine was searched for so that 0.563 stays.',
      '5.2 times smaller',
      '2,600,000',
      '61.0 %',
      'Names are near chance.',
      'Against lists of variations.',
      'v20.19.0',
      'not finished',
      '1 min 5 s',
    ]) {
      expect(page, text).toContain(text);
    }
  });

  it('marks the kept image of a group, and the best score of a row and no other', () => {
    expect(page.match(/<li class="kept">/g)).toHaveLength(1);
    const [, row] = /<th scope="row">Top-1 <span class="quiet">chance 10.0 %<\/span><\/th>(.*?)<\/tr>/.exec(
      page,
    )!;
    expect(row).toContain('<td class="number best">70.0 %</td>');
    expect(row!.match(/best/g)).toHaveLength(1);
  });

  it('orders models as they come to be, whatever their files are called', () => {
    const names = [...page.matchAll(/<th scope="col" class="number">(teacher|student|baseline)<\/th>/g)].map(
      ([, n]) => n,
    );
    expect(names).toEqual(['teacher', 'student', 'baseline']);
  });

  it('escapes what comes from the data', () => {
    expect(page).not.toMatch(/<script/i);
    expect(page).toContain('&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; Söhne');
    expect(page).toContain('A &lt;fine&gt; CPU');
    expect(page).toContain('<title>A &amp; B &lt;run&gt; · clip-cid</title>');
  });

  it('loads nothing, and holds the pictures itself', () => {
    expect(page.match(/src="data:image\/webp;base64,/g)).toHaveLength(5);
    expect(page).not.toMatch(/(src|href)="(?!data:|#)/);
    expect(page).not.toMatch(/url\(|@import/);
    // The one whose file is gone is shown by its name.
    expect(page).toMatch(/class="thumb missing" title="item 5"/);
    expect(statSync(join(root, 'run', 'report.html')).size).toBeLessThan(200_000);
  });

  it('draws every line of the metrics', () => {
    for (const name of ['total', 'clip', 'instance', 'imageToText', 'rate', 'before clipping'])
      expect(page).toContain(`</span>${name} `);
    expect(page).not.toMatch(/="[^"]*(NaN|Infinity|undefined)/);
  });

  it('says whether loader or step was the bottleneck of a training', () => {
    expect(page).toContain(
      '900 images/s on average: the step is the bottleneck (alone the step would do 920 images/s, the loader 1,000).',
    );
    expect(page).toMatch(/the loader is the bottleneck, the step waited for images 50 % of the time/);
    for (const name of ['trained on', 'step without waiting', 'loader while at work'])
      expect(page).toContain(`</span>${name} `);
  });

  it('keeps to the bytes that images may take', async () => {
    const out = join(root, 'small.html');
    await writeReport(join(root, 'run'), { out, imageBytes: 0 });
    expect(readFileSync(out, 'utf8')).not.toContain('data:image');
  });

  it('leaves out what is not there', async () => {
    mkdirSync(join(root, 'bare'));
    writeFileSync(join(root, 'bare', 'metrics.jsonl'), '{"stage":"distill","step":1,"loss/total":2}\n');
    const bare = readFileSync(await writeReport(join(root, 'bare')), 'utf8');
    expect([...bare.matchAll(/<section id="([^"]+)">/g)].map(([, id]) => id)).toEqual(['training']);
  });

  it('says what is wrong with a folder', async () => {
    await expect(writeReport(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    mkdirSync(join(root, 'empty'));
    await expect(writeReport(join(root, 'empty'))).rejects.toMatchObject({ code: 'INVALID_DATA' });
    mkdirSync(join(root, 'broken', 'balance'), { recursive: true });
    writeFileSync(join(root, 'broken', 'balance', 'report.json'), '{');
    await expect(writeReport(join(root, 'broken'))).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  });
});

describe('html', () => {
  it('escapes all that is put in, once', () => {
    const inner = html`<b>${'a < b & "c" \'d\''}</b>`;
    expect(html`<p title="${'"'}">${[inner, 1, undefined]}</p>`.text).toBe(
      '<p title="&quot;"><b>a &lt; b &amp; &quot;c&quot; &#39;d&#39;</b>1</p>',
    );
    expect(table(['<'], [['>', 1234.5]]).text).toContain(
      '<th scope="row">&gt;</th><td class="number">1,235</td>',
    );
  });

  it('writes numbers and times for people', () => {
    expect([0, 12, 1234567, 0.5, 0.123456, 0.0005, 0.00001234, 12345.6].map(formatNumber)).toEqual([
      '0',
      '12',
      '1,234,567',
      '0.5',
      '0.1235',
      '0.0005',
      '1.23e-5',
      '12,346',
    ]);
    expect([0.25, 12.34, 65, 3725].map(formatSeconds)).toEqual([
      '250 ms',
      '12.3 s',
      '1 min 5 s',
      '1 h 2 min',
    ]);
  });
});

describe('charts', () => {
  it('puts points where they belong', () => {
    const points = [
      [0, 0],
      [10, 4],
    ] as const;
    const { text } = lineChart({ title: 'T', x: 'step', series: [{ name: 'a', points }] });
    // The plot runs from 52 to 468 across and from 206 up to 10.
    expect(text).toContain('points="52,206 468,10"');
    expect(text).toContain('aria-label="T: a from 0 to 4"');
  });

  it('leaves out what is not finite, and lines without points', () => {
    const series = [
      {
        name: 'a',
        points: [
          [1, Number.NaN],
          [2, 5],
          [3, 6],
        ] as const,
      },
      { name: 'b', points: [[1, Number.POSITIVE_INFINITY]] as const },
    ];
    const { text } = lineChart({ title: 'T', x: 'step', series });
    expect(text).not.toMatch(/NaN|Infinity/);
    expect(text).not.toContain('>b ');
    expect(lineChart({ title: 'T', x: 'step', series: [] }).text).toBe('');
  });

  it('thins long lines and keeps their end', () => {
    const points = Array.from({ length: 10_000 }, (_, i) => [i, i] as const);
    const { text } = lineChart({ title: 'T', x: 'step', series: [{ name: 'a', points }] });
    const [, list] = /points="([^"]+)"/.exec(text)!;
    expect(list!.split(' ')).toHaveLength(240);
    expect(text).toContain('9,999');
  });

  it('chooses round ticks that cover the range', () => {
    expect(niceTicks(0, 9.3, 5, true)).toEqual({ from: 0, to: 10, ticks: [0, 2, 4, 6, 8, 10] });
    expect(niceTicks(3, 3, 4, true).ticks).toContain(3);
    expect(niceTicks(0, 0, 4, true).ticks.length).toBeGreaterThan(1);
  });

  it('draws bars in proportion', () => {
    const { text } = barChart([
      { label: 'a', value: 50 },
      { label: 'b', value: 200, note: 'all' },
    ]);
    expect(text).toContain('width:25%');
    expect(text).toContain('width:100%');
  });
});
