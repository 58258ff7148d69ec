import type { RatedImage } from '../cskd/evaluate.ts';
import {
  type NamedScores,
  SCORERS,
  SCORES_FOLDER,
  type ScoreFigure,
  scoreFigures,
  scorerFolder,
  scorerTitles,
} from '../cskd/summary.ts';
import type { Estimate } from '../eval/scores.ts';
import { formatNumber, Html, html, section } from './html.ts';
import type { RunContents, ScoreSpread } from './read.ts';
import { staleNote } from './stale-notes.ts';
import type { Thumbnails } from './thumbnails.ts';

/** How well scorers agree with people, what each phase adds, and the images that the best of them likes most and least. */
export async function scoresSection(run: RunContents, thumbnails: Thumbnails): Promise<Html | undefined> {
  const { scores, spread } = run;
  const [first] = scores;
  if (!first) return undefined;
  const { data, metrics } = first.result;
  // The one with both phases, or else the one that has most of them.
  const shown = scores.find(({ name }) => name === 'student') ?? scores.at(-1)!;
  return section(
    'scores',
    'Scores',
    staleNote(run, SCORES_FOLDER, ...SCORERS.map(scorerFolder)),
    html`<p class="lead">Measured on ${formatNumber(data.images)} images that nothing was learned from. In brackets: intervals of ${formatNumber(100 * metrics.confidence)} % over
resamples of these images. The best of each column is bold; a score over ${formatNumber(metrics.threshold)} counts as high.</p>`,
    scoreTable(scores),
    spread && spreadTable(spread),
    html`<h3>Rated highest by “${scorerTitles[shown.name]}”, with what people gave</h3>`,
    await gallery(shown.result.highest, thumbnails),
    html`<h3>Rated lowest</h3>`,
    await gallery(shown.result.lowest, thumbnails),
  );
}

const figures = Object.keys(scoreFigures) as ScoreFigure[];

function scoreTable(scores: readonly NamedScores[]): Html {
  const best = figures.map((figure) => {
    const values = scores.flatMap(({ result }) => result.metrics[figure]?.value ?? []);
    const { more } = scoreFigures[figure];
    const value = more ? Math.max(...values) : Math.min(...values);
    // Where all are equal there is no best.
    return values.every((other) => other === value) ? undefined : value;
  });
  const head = ['Learned from', 'Parameters', ...figures.map((figure) => scoreFigures[figure].title)];
  const rows = scores.map(
    ({ name, result }) => html`<tr><th scope="row">${scorerTitles[name]}</th>
<td class="number">${formatNumber(result.model.parameters)}</td>${figures.map((figure, column) =>
      cell(result.metrics[figure], best[column]),
    )}</tr>\n`,
  );
  return html`<div class="scroll"><table><thead><tr>${head.map(
    (title, column) =>
      html`<th scope="col"${column > 0 ? new Html(' class="number"') : undefined}>${title}</th>`,
  )}</tr></thead>
<tbody>${rows}</tbody></table></div>`;
}

function cell(estimate: Estimate | undefined, best: number | undefined): Html {
  if (estimate === undefined) return html`<td></td>`;
  const { value, low, high, reason } = estimate;
  if (value === null) return html`<td class="number" title="${reason ?? ''}">not defined</td>`;
  const interval =
    low === null || high === null
      ? undefined
      : html` <span class="quiet">[${low.toFixed(3)}, ${high.toFixed(3)}]</span>`;
  return html`<td class="number${value === best ? ' best' : ''}">${value.toFixed(3)}${interval}</td>`;
}

function spreadTable({ title, columns, rows }: ScoreSpread): Html {
  return html`<h3>Over several runs</h3><p>${title}</p><div class="scroll"><table><thead><tr><th scope="col"></th>${columns.map(
    (column) => html`<th scope="col" class="number">${column}</th>`,
  )}</tr></thead>
<tbody>${rows.map(
    ({ name, values }) =>
      html`<tr><th scope="row">${name}</th>${values.map(
        ({ mean, deviation }) => html`<td class="number">${mean.toFixed(3)} ± ${deviation.toFixed(3)}</td>`,
      )}</tr>\n`,
  )}</tbody></table></div>`;
}

async function gallery(images: readonly RatedImage[], thumbnails: Thumbnails): Promise<Html> {
  const pictures = [];
  for (const { image, key, predicted, given } of images) {
    pictures.push(
      html`<li>${await thumbnails.show(image, key)}${predicted.toFixed(2)}<br><span class="quiet">${given.toFixed(2)}</span></li>`,
    );
  }
  return html`<ul class="members">${pictures}</ul>`;
}
