import { formatFigure, gridOf, summarizeAnalysis, summaryLabels } from '../eval/analysis-format.ts';
import type { ModelAnalysis } from '../eval/analyze.ts';
import type { AttentionLayer } from '../eval/attention/meter.ts';
import { spread } from '../eval/statistics.ts';
import { packageVersion } from '../native/loader.ts';
import { writeFileAtomic } from '../run/files.ts';
import { lineChart, type Series } from './charts.ts';
import { formatNumber, type Html, html, section, table } from './html.ts';
import { page } from './page.ts';

/** An analysed model under the name that it has beside others: 'before' and 'after', or of several encoders 'before-student', 'after-student', …. */
export interface NamedAnalysis {
  readonly name: string;
  readonly analysis: ModelAnalysis;
}

/** Layers that dots of different models are apart, so that they do not hide each other. */
const APART = 0.12;

/**
 * What encoders look at and whether their embeddings have collapsed, models beside each other: attention distance and entropy of every head by
 * layer, divergence between heads, effective ranks and cosines. Undefined without any.
 */
export function analysisSection(analyses: readonly NamedAnalysis[]): Html | undefined {
  if (analyses.length === 0) return undefined;
  const attending = analyses.filter(({ analysis }) => analysis.attention.length > 0);
  const head = ['', ...analyses.map(({ name }) => name)];
  const summaries = analyses.map(({ analysis }) => summarizeAnalysis(analysis));
  const rows = (Object.keys(summaryLabels) as (keyof typeof summaryLabels)[])
    .filter((figure) => summaries.some((summary) => summary[figure] !== null))
    .map((figure) => [
      summaryLabels[figure],
      ...summaries.map((summary) => html`<div class="number">${formatFigure(summary[figure])}</div>`),
    ]);
  const { definitions } = analyses[0]!.analysis;
  const skipped = analyses.flatMap(({ name, analysis }) =>
    analysis.skipped.map(
      ({ node, reason }) => html`<p class="note">${name}: ${node} is not measured: ${reason}</p>`,
    ),
  );
  const notes = new Set(analyses.flatMap(({ analysis }) => analysis.notes));
  return section(
    'analysis',
    'Attention and embeddings',
    html`<p class="lead">${analyses.map(({ name, analysis: { data, embeddings } }, i) => {
      const comma = i === 0 ? '' : '; ';
      return html`${comma}${name}: ${formatNumber(data.images)} images, embeddings ${embeddings.output} of ${formatNumber(embeddings.dim)}`;
    })}.</p>`,
    attending.length > 0 ? chartsByEncoder(attending) : html`<p>No attention in these models.</p>`,
    html`<h3>Means over layers and heads, and embeddings</h3>`,
    table(head, rows),
    skipped,
    [...notes].map((note) => html`<p class="note">${note}</p>`),
    html`<p class="quiet">Distance: pixels from a patch to what it attends to, weighted by attention${
      definitions.renormalize ? ' among patches' : ''
    }. Entropy: of a token's attention${
      definitions.entropyOf === 'patches' ? ' among patches' : ''
    }; at most the logarithm of the number of tokens. Divergence: Kullback-Leibler, between the attention of two heads for the same token; 0 where all heads
do the same. Effective rank: exponential of the entropy of the singular values of unit embeddings.</p>`,
    attending.map(({ name, analysis }) => layerTable(name, analysis.attention)),
  );
}

/** Charts of each encoder apart, where there are several. */
function chartsByEncoder(analyses: readonly NamedAnalysis[]): Html[] {
  const encoders = new Map<string, NamedAnalysis[]>();
  for (const entry of analyses) {
    const [, encoder = ''] = /^(?:before|after)-(.+)$/.exec(entry.name) ?? [];
    encoders.set(encoder, [...(encoders.get(encoder) ?? []), entry]);
  }
  return [...encoders].map(([encoder, own]) =>
    encoder === '' ? attentionCharts(own) : html`<h3>${encoder}</h3>${attentionCharts(own)}`,
  );
}

function attentionCharts(analyses: readonly NamedAnalysis[]): Html {
  const series = (of: (layer: AttentionLayer) => readonly number[]): Series[] =>
    analyses.map(({ name, analysis: { attention } }, k) => {
      const shift = APART * (k - (analyses.length - 1) / 2);
      return {
        name,
        points: attention.map((layer, i) => [i + 1, spread(of(layer)).mean] as const),
        scatter: attention.flatMap((layer, i) => of(layer).map((value) => [i + 1 + shift, value] as const)),
      };
    });
  const divergence = analyses.map(({ name, analysis: { attention } }) => ({
    name,
    points: attention.flatMap((layer, i) =>
      layer.divergence === null ? [] : [[i + 1, layer.divergence] as const],
    ),
  }));
  const x = 'layer';
  return html`<div class="grid-2">${[
    lineChart({
      title: 'Attention distance, pixels (a dot a head; line: mean)',
      x,
      series: series((layer) => layer.distance),
    }),
    lineChart({
      title: 'Attention entropy, nats (a dot a head; line: mean)',
      x,
      series: series((layer) => layer.entropy),
    }),
    lineChart({ title: 'Divergence between heads, nats', x, series: divergence }),
    lineChart({
      title: 'Spread of distance over heads, pixels',
      x,
      series: analyses.map(({ name, analysis: { attention } }) => ({
        name,
        points: attention.map((layer, i) => [i + 1, layer.spread.distance] as const),
      })),
    }),
  ]}</div>`;
}

function layerTable(name: string, layers: readonly AttentionLayer[]): Html {
  const list = (values: readonly number[], digits: number) =>
    values.map((value) => value.toFixed(digits)).join(' ');
  return html`<details><summary>${name}: every layer and head</summary>${table(
    ['Layer', 'Tokens', 'Distance of each head, px', 'Entropy of each head, nats', 'Divergence', 'Node'],
    layers.map((layer, i) => [
      i + 1,
      gridOf(layer),
      list(layer.distance, 1),
      list(layer.entropy, 3),
      formatFigure(layer.divergence),
      layer.node,
    ]),
  )}</details>`;
}

/** Writes one HTML file about analysed models. Fails with FILE_WRITE. */
export async function writeAnalysisReport(
  path: string,
  analyses: readonly NamedAnalysis[],
  title: string,
): Promise<void> {
  const sections = [analysisSection(analyses)].filter((part) => part !== undefined);
  const lead = 'What image encoders look at';
  await writeFileAtomic(path, page({ title, lead, version: packageVersion, sections }));
}
