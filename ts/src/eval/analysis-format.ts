import type { ModelAnalysis } from './analyze.ts';
import type { AttentionLayer } from './attention/meter.ts';
import { spread } from './statistics.ts';

/** The figures of a model in one number each: means over its layers and heads, and of its embeddings. */
export interface AnalysisSummary {
  /** Pixels; null without attention. */
  readonly distance: number | null;
  /** Nats. */
  readonly entropy: number | null;
  /** Mean over the layers of the standard deviation over heads, of distance in pixels. */
  readonly distanceSpread: number | null;
  /** Mean over the layers, nats; null where all have one head. */
  readonly divergence: number | null;
  readonly effectiveRank: number;
  readonly centredEffectiveRank: number;
  readonly meanCosine: number | null;
}

export function summarizeAnalysis({ attention, embeddings }: ModelAnalysis): AnalysisSummary {
  const { effectiveRank, centredEffectiveRank, meanCosine } = embeddings;
  const over = (of: (layer: AttentionLayer) => number | null) => {
    const values = attention.map(of).filter((value) => value !== null);
    return values.length === 0 ? null : mean(values);
  };
  return {
    distance: over((layer) => mean(layer.distance)),
    entropy: over((layer) => mean(layer.entropy)),
    distanceSpread: over((layer) => layer.spread.distance),
    divergence: over((layer) => layer.divergence),
    effectiveRank,
    centredEffectiveRank,
    meanCosine,
  };
}

const mean = (values: readonly number[]) => spread(values).mean;

/** What the figures of {@link AnalysisSummary} are, in the order of tables. */
export const summaryLabels: Readonly<Record<keyof AnalysisSummary, string>> = {
  distance: 'attention distance, px',
  entropy: 'attention entropy, nats',
  distanceSpread: 'spread of distance over heads, px',
  divergence: 'divergence between heads, nats',
  effectiveRank: 'effective rank',
  centredEffectiveRank: 'effective rank, centred',
  meanCosine: 'mean cosine',
};

/** A figure with a few digits; a dash where there is none. */
export function formatFigure(value: number | null): string {
  return value === null ? '–' : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);
}

/** An analysis as lines for a person. */
export function formatAnalysis(analysis: ModelAnalysis): string {
  const { model, data, imageSize, attention, skipped, embeddings, notes } = analysis;
  const left = data.skipped > 0 ? ` (${data.skipped} could not be decoded)` : '';
  const lines = [model, `  ${data.images} images of ${data.source}, ${imageSize} px${left}`];
  if (attention.length === 0) lines.push('  no attention in this model');
  else {
    const rows = attention.map((layer, i) => [
      String(i + 1),
      String(layer.heads),
      gridOf(layer),
      `${mean(layer.distance).toFixed(1)} ± ${layer.spread.distance.toFixed(1)}`,
      `${mean(layer.entropy).toFixed(3)} ± ${layer.spread.entropy.toFixed(3)} of ${Math.log(layer.tokens).toFixed(3)}`,
      formatFigure(layer.divergence),
    ]);
    const head = ['layer', 'heads', 'tokens', 'distance, px', 'entropy, nats', 'divergence'];
    lines.push(
      ...columns([head, ...rows]).map((line) => `  ${line}`),
      '  mean ± standard deviation over heads',
    );
  }
  for (const { node, reason } of skipped) lines.push(`  not measured: ${node}: ${reason}`);
  const { output, dim, effectiveRank, centredEffectiveRank, meanCosine } = embeddings;
  lines.push(
    `  embeddings (${output}, ${dim}): effective rank ${formatFigure(effectiveRank)}, ` +
      `centred ${formatFigure(centredEffectiveRank)}, mean cosine ${formatFigure(meanCosine)}`,
    ...notes.map((note) => `  note: ${note}`),
  );
  return lines.join('\n');
}

/** `1 + 14 × 14`, or `49 × 7 × 7` for windows. */
export function gridOf({ classTokens, grid: [rows, columns], windows }: AttentionLayer): string {
  const patches = `${rows} × ${columns}`;
  if (windows > 1) return `${windows} windows of ${patches}`;
  return classTokens > 0 ? `${classTokens} + ${patches}` : patches;
}

/** What changed from one model to another, as lines for a person, under a title. */
export function formatChange(before: ModelAnalysis, after: ModelAnalysis, title = 'before → after'): string {
  const [from, to] = [summarizeAnalysis(before), summarizeAnalysis(after)];
  const rows = (Object.keys(summaryLabels) as (keyof AnalysisSummary)[])
    .filter((name) => from[name] !== null || to[name] !== null)
    .map((name) => [summaryLabels[name], formatFigure(from[name]), '→', formatFigure(to[name])]);
  const lines = columns(rows);
  if (before.embeddings.output !== after.embeddings.output) {
    lines.push(
      `embeddings are ${before.embeddings.output} before and ${after.embeddings.output} after: name one output to compare like with like`,
    );
  }
  return [title, ...lines.map((line) => `  ${line}`)].join('\n');
}

/** Rows of cells as lines with columns of the same width, the first to the left. */
function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, k) => Math.max(...rows.map((row) => row[k]!.length))) ?? [];
  return rows.map((row) =>
    row
      .map((cell, k) => (k === 0 ? cell.padEnd(widths[k]!) : cell.padStart(widths[k]!)))
      .join('  ')
      .trimEnd(),
  );
}
