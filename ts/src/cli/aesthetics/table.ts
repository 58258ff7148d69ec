import {
  type NamedScores,
  readScores,
  SCORES_FOLDER,
  type ScoreFigure,
  scoreFigures,
  scorerTitles,
} from '../../cskd/summary.ts';
import { formatEstimate } from '../../eval/scores.ts';
import type { Session } from '../common.ts';

/** Prints a line a scorer: what each phase adds. */
export async function printScores(session: Session, runFolder: string): Promise<void> {
  const scores = await readScores(runFolder);
  const record = Object.fromEntries(scores.map(({ name, result }) => [name, result.metrics]));
  session.print({ stage: SCORES_FOLDER, scorers: record }, scoreTable(scores));
}

function scoreTable(scores: readonly NamedScores[]): string {
  const figures = Object.keys(scoreFigures) as ScoreFigure[];
  const rows = [['', 'parameters', ...figures.map((figure) => scoreFigures[figure].title)]];
  for (const { name, result } of scores) {
    const cells = figures.map((figure) => {
      const estimate = result.metrics[figure];
      return estimate ? formatEstimate(estimate) : '';
    });
    rows.push([scorerTitles[name], result.model.parameters.toLocaleString('en-US'), ...cells]);
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
  const [first] = scores;
  const about = first
    ? `Measured on ${first.result.data.images} images, with intervals of ${first.result.metrics.confidence}:`
    : 'Nothing was measured.';
  return `\n${about}\n${lines.join('\n')}`;
}
