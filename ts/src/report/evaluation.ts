import { describeSeen, percent } from '../eval/format.ts';
import type { EvaluateResult, RecallResult } from '../eval/types.ts';
import { formatNumber, Html, html, section } from './html.ts';
import type { RunContents } from './read.ts';
import { staleNote } from './stale-notes.ts';

interface Row {
  readonly label: string;
  /** A value a model; undefined where the model was not measured so. */
  readonly value: (result: EvaluateResult) => number | undefined;
  readonly show?: (value: number) => string;
  /** Value of guessing, beside the label. */
  readonly chance?: number | undefined;
}

/** Models beside each other: size, and every score. The best score of a row is bold. */
export function evaluationSection(run: Pick<RunContents, 'evaluations' | 'stale'>): Html | undefined {
  const { evaluations } = run;
  if (evaluations.length === 0) return undefined;
  const results = evaluations.map(({ result }) => result);
  const [first] = results;
  const head = html`<tr><th scope="col">Model</th>${evaluations.map(({ name }) => html`<th scope="col" class="number">${name}</th>`)}</tr>`;
  const body: Html[] = [];
  const add = (title: string, rows: readonly Row[], best = true) => {
    const shown = rows.filter(({ value }) => results.some((result) => value(result) !== undefined));
    if (shown.length === 0) return;
    body.push(html`<tr class="head"><th colspan="${results.length + 1}">${title}</th></tr>\n`);
    for (const row of shown) body.push(rowOf(row, results, best));
  };

  const ratio = (of: (result: EvaluateResult) => number | undefined) => (result: EvaluateResult) => {
    const [whole, part] = [of(first!), of(result)];
    return result === first || !whole || !part ? undefined : whole / part;
  };
  const times = (value: number) =>
    value >= 1 ? `${value.toFixed(1)} times smaller` : `${(1 / value).toFixed(1)} times larger`;
  add(
    'Size',
    [
      { label: 'Parameters', value: ({ model }) => model.parameters },
      {
        label: `against ${evaluations[0]!.name}`,
        value: ratio(({ model }) => model.parameters),
        show: times,
      },
      { label: 'Parameters of the image tower', value: ({ model }) => model.imageParameters },
      {
        label: `against ${evaluations[0]!.name}`,
        value: ratio(({ model }) => model.imageParameters),
        show: times,
      },
      {
        label: 'Files',
        value: ({ model }) => model.bytes,
        show: (value) => `${(value / 1e6).toFixed(2)} MB`,
      },
      { label: 'Width of the embeddings', value: ({ model }) => model.dim },
    ],
    false,
  );
  for (const field of fieldsOf(results, 'zeroShot')) {
    const of = (result: EvaluateResult) => result.zeroShot?.[field];
    const sample = results.map(of).find((scores) => scores !== undefined)!;
    add(`Zero-shot, ${field}: ${sample.classes} classes, ${formatNumber(sample.images)} images`, [
      { label: 'Top-1', value: (result) => of(result)?.top1, chance: sample.chance },
      { label: 'Top-5', value: (result) => of(result)?.top5 },
      { label: 'Mean per class', value: (result) => of(result)?.meanPerClass, chance: sample.chance },
    ]);
  }
  const imageImage = results.map((result) => result.imageImage).find((scores) => scores !== undefined);
  if (imageImage) {
    add(
      `Image to image, same concept: ${formatNumber(imageImage.queries)} queries, ${formatNumber(imageImage.candidates)} candidates`,
      [
        ...recallRows((result) => result.imageImage, imageImage),
        { label: 'Mean average precision', value: (result) => result.imageImage?.meanAveragePrecision },
        {
          label: `Recall@1, mean over ${imageImage.concepts} concepts`,
          value: (result) => result.imageImage?.recall1PerConcept,
        },
      ],
    );
  }
  for (const field of fieldsOf(results, 'linearProbe')) {
    const of = (result: EvaluateResult) => result.linearProbe?.[field];
    add(`Linear probe, ${field}`, [
      { label: 'Top-1', value: (result) => of(result)?.top1 },
      { label: 'Mean per class', value: (result) => of(result)?.meanPerClass },
    ]);
  }
  const notes = new Set<string>();
  for (const which of ['train', 'data'] as const) {
    for (const way of ['imageToText', 'textToImage'] as const) {
      const of = (result: EvaluateResult) => result.imageText?.[which]?.[way];
      const sample = results.map(of).find((scores) => scores !== undefined);
      if (!sample) continue;
      const direction = way === 'imageToText' ? 'Image to text' : 'Text to image';
      const title = `${direction}, ${which === 'train' ? 'seen images' : 'images measured on'}`;
      add(
        `${title}: ${formatNumber(sample.queries)} queries, ${formatNumber(sample.candidates)} candidates`,
        recallRows(of, sample),
      );
    }
    for (const result of results) {
      const note = result.imageText?.[which]?.note;
      if (note) notes.add(note);
    }
  }
  const { data, train } = first!;
  const seen = describeSeen(data);
  return section(
    'evaluation',
    'Evaluation',
    html`<p class="lead">Measured on ${formatNumber(data.images)} images of ${baseName(data.source)}${
      train
        ? html`; the probe was trained on, and seen concepts are, ${formatNumber(train.images)} images of ${baseName(train.source)}`
        : undefined
    }. The best of each row is bold; chance is what guessing gives.</p>`,
    staleNote(run, 'student', 'baseline', 'eval'),
    seen === undefined ? undefined : html`<p class="note warning">${upper(seen)}.</p>`,
    html`<div class="scroll"><table><thead>${head}</thead><tbody>${body}</tbody></table></div>`,
    [...notes].map((note) => html`<p class="note">${note}</p>`),
  );
}

const upper = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`;

function rowOf(
  { label, value, show, chance }: Row,
  results: readonly EvaluateResult[],
  markBest: boolean,
): Html {
  const values = results.map(value);
  const format = show ?? (markBest ? percent : formatNumber);
  const known = values.filter((entry) => entry !== undefined);
  // Where all are equal there is no best.
  const best = markBest && Math.max(...known) > Math.min(...known) ? Math.max(...known) : undefined;
  const cells = values.map((entry) =>
    entry === undefined
      ? html`<td></td>`
      : html`<td class="number${entry === best ? ' best' : ''}">${format(entry)}</td>`,
  );
  const beside =
    chance === undefined ? undefined : html` <span class="quiet">chance ${percent(chance)}</span>`;
  return html`<tr><th scope="row">${label}${beside}</th>${cells}</tr>\n`;
}

function recallRows(
  of: (result: EvaluateResult) => RecallResult | undefined,
  { chance }: RecallResult,
): Row[] {
  return (['1', '5', '10'] as const).map((k) => ({
    label: `Recall@${k}`,
    value: (result) => of(result)?.recall[k],
    chance: chance[k],
  }));
}

function fieldsOf(results: readonly EvaluateResult[], key: 'zeroShot' | 'linearProbe'): string[] {
  return [...new Set(results.flatMap((result) => Object.keys(result[key] ?? {})))];
}

function baseName(source: string): Html {
  return new Html(html`<code>${source.split(/[\\/]/).at(-1)}</code>`.text);
}
