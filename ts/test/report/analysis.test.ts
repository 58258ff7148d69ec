import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  formatAnalysis,
  formatChange,
  formatFigure,
  summarizeAnalysis,
} from '../../src/eval/analysis-format.ts';
import type { ModelAnalysis } from '../../src/eval/analyze.ts';
import { analysisSection, writeAnalysisReport } from '../../src/report/analysis.ts';
import { lineChart } from '../../src/report/charts.ts';
import { readAnalyses } from '../../src/report/read.ts';
import { writeReport } from '../../src/report/report.ts';

const layer = (distance: number[], entropy: number[], divergence: number | null = 0.25) => ({
  node: '/blocks.0/<attn>/Softmax',
  heads: distance.length,
  tokens: 17,
  classTokens: 1,
  grid: [4, 4] as const,
  cell: 16,
  windows: 1,
  distance,
  entropy,
  divergence,
  spread: { distance: 5, entropy: 0.5 },
});

function analysis(factor = 1, parts: Partial<ModelAnalysis> = {}): ModelAnalysis {
  return {
    model: 'models/vit/onnx/vision_model.onnx',
    data: { source: 'photos', images: 250, skipped: 2 },
    imageSize: 64,
    attention: [layer([20 * factor, 30 * factor], [2, 2.5]), layer([10, 12], [1, 1.5], 0.75)],
    skipped: [{ node: '/pool/Softmax', reason: 'its scores are [1, 2, 1, 16]: not of tokens to each other' }],
    definitions: { renormalize: false, entropyOf: 'all' },
    embeddings: {
      output: 'image_embeds',
      images: 250,
      dim: 512,
      effectiveRank: 120.5 * factor,
      centredEffectiveRank: 130,
      meanCosine: 0.4,
    },
    notes: ['Images are <small>.'],
    seconds: 3,
    ...parts,
  };
}

describe('words', () => {
  it('sum up layers and heads', () => {
    expect(summarizeAnalysis(analysis())).toEqual({
      distance: 18,
      entropy: 1.75,
      distanceSpread: 5,
      divergence: 0.5,
      effectiveRank: 120.5,
      centredEffectiveRank: 130,
      meanCosine: 0.4,
    });
    expect(summarizeAnalysis(analysis(1, { attention: [] }))).toMatchObject({
      distance: null,
      divergence: null,
    });
    expect(formatFigure(null)).toBe('–');
  });

  it('show every layer', () => {
    const text = formatAnalysis(analysis());
    expect(text).toContain('250 images of photos, 64 px (2 could not be decoded)');
    expect(text).toMatch(/^ {2}layer {2}heads +tokens/m);
    expect(text).toMatch(/^ {2}1 +2 +1 \+ 4 × 4 +25\.0 ± 5\.0 +2\.250 ± 0\.500 of 2\.833 +0\.250$/m);
    expect(text).toContain('not measured: /pool/Softmax: its scores');
    expect(text).toContain(
      'embeddings (image_embeds, 512): effective rank 120.5, centred 130.0, mean cosine 0.400',
    );
    expect(text).toContain('note: Images are <small>.');
    expect(formatAnalysis(analysis(1, { attention: [] }))).toContain('no attention in this model');
    const windows = { ...layer([1], [1], null), windows: 16, classTokens: 0 };
    expect(formatAnalysis(analysis(1, { attention: [windows] }))).toContain('16 windows of 4 × 4');
  });

  it('show what changed, and that outputs differ', () => {
    const text = formatChange(analysis(), analysis(0.5));
    expect(text).toMatch(/attention distance, px +18\.000 +→ +11\.750/);
    expect(text).toMatch(/effective rank +120\.5 +→ +60\.250/);
    expect(text).not.toContain('like with like');
    const other = { ...analysis().embeddings, output: 'pooler_output' };
    expect(formatChange(analysis(), analysis(1, { embeddings: other }))).toContain(
      'embeddings are image_embeds before and pooler_output after',
    );
  });
});

describe('the section', () => {
  const named = [
    { name: 'before', analysis: analysis() },
    { name: 'after', analysis: analysis(0.5) },
  ];

  it('draws a dot a head, a line of means, and models beside each other', () => {
    const { text } = analysisSection(named)!;
    expect(text).toMatch(/^<section id="analysis">/);
    expect(text.match(/<svg /g)).toHaveLength(4);
    const [distance] = text.split('</figure>');
    expect(distance).toContain('Attention distance, pixels');
    expect(distance!.match(/class="dot faint series-0"/g)).toHaveLength(4);
    expect(distance!.match(/class="dot faint series-1"/g)).toHaveLength(4);
    expect(distance!.match(/class="line series-/g)).toHaveLength(2);
    expect(distance).toContain('<title>before: 30</title>');
    expect(distance).toContain(
      'aria-label="Attention distance, pixels (a dot a head; line: mean): before from 25 to 11',
    );
    expect(text).not.toMatch(/="[^"]*(NaN|Infinity|undefined)/);
    expect(text).toContain(
      '<th scope="row">effective rank</th><td><div class="number">120.5</div></td><td><div class="number">60.250</div></td>',
    );
  });

  it('has charts of its own for each of several encoders', () => {
    const names = ['before-student', 'before-teacher', 'after-student', 'after-teacher'];
    const { text } = analysisSection(names.map((name) => ({ name, analysis: analysis() })))!;
    expect(text.match(/<svg /g)).toHaveLength(8);
    const [, student, teacher] = text.split(/<h3>(?:student|teacher)<\/h3>/);
    expect(student).toContain('before-student');
    expect(student).not.toContain('teacher');
    expect(teacher).toContain('after-teacher');
  });

  it('escapes names of nodes, and tells what was left out', () => {
    const { text } = analysisSection(named)!;
    expect(text).toContain('/blocks.0/&lt;attn&gt;/Softmax');
    expect(text).not.toContain('<attn>');
    expect(text).toContain('/pool/Softmax is not measured');
    expect(text.match(/Images are &lt;small&gt;\./g)).toHaveLength(1);
  });

  it('has embeddings alone for models without attention, and is not there without models', () => {
    const { text } = analysisSection([{ name: 'model', analysis: analysis(1, { attention: [] }) }])!;
    expect(text).toContain('No attention in these models.');
    expect(text).not.toContain('<svg');
    expect(text).toContain('120.5');
    expect(analysisSection([])).toBeUndefined();
  });

  it('leaves out a divergence that there is none of', () => {
    const single = analysis(1, { attention: [layer([5], [1], null), layer([6], [1], null)] });
    const { text } = analysisSection([{ name: 'model', analysis: single }])!;
    expect(text.match(/<svg /g)).toHaveLength(3);
    expect(text).not.toMatch(/="[^"]*(NaN|undefined)/);
  });
});

describe('files', () => {
  const root = mkdtempSync(join(tmpdir(), 'analysis-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('are one page that loads nothing', async () => {
    await writeAnalysisReport(join(root, 'page.html'), [{ name: 'model', analysis: analysis() }], 'A & B');
    const page = readFileSync(join(root, 'page.html'), 'utf8');
    expect(page).toContain('<title>A &amp; B · clip-cid</title>');
    expect(page).toContain('href="#analysis"');
    expect(page).not.toMatch(/(src|href)="(?!data:|#)|<script/);
  });

  it('are read into the report of a run, what was before first', async () => {
    mkdirSync(join(root, 'run/analysis'), { recursive: true });
    for (const [name, value] of Object.entries({
      after: analysis(0.5),
      before: analysis(),
      manifest: { version: 1, stage: 'analyze', outputs: [], status: 'done', summary: {} },
      other: { x: 1 },
    })) {
      writeFileSync(join(root, `run/analysis/${name}.json`), JSON.stringify(value));
    }
    expect((await readAnalyses(join(root, 'run/analysis'))).map(({ name }) => name)).toEqual([
      'before',
      'after',
    ]);
    expect(await readAnalyses(join(root, 'nowhere'))).toEqual([]);
    const page = readFileSync(await writeReport(join(root, 'run')), 'utf8');
    expect(page).toContain('<section id="analysis"><h2>Attention and embeddings</h2>');
  });
});

describe('lineChart', () => {
  it('takes in dots that lie beyond the lines', () => {
    const points = [
      [1, 5],
      [2, 6],
    ] as const;
    const { text } = lineChart({
      title: 't',
      x: 'x',
      series: [
        {
          name: 'a',
          points,
          scatter: [
            [1, 40],
            [2, Number.NaN],
          ],
        },
      ],
    });
    expect(text.match(/class="dot faint/g)).toHaveLength(1);
    expect(text).toContain('>40</text>');
    const tops = [...text.matchAll(/cy="([^"]+)"/g)].map(([, y]) => Number(y));
    for (const top of tops) expect(top).toBeGreaterThanOrEqual(0);
  });
});
