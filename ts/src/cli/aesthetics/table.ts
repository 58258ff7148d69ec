import { join } from 'node:path';
import type { ScorerResult } from '../../cskd/evaluate.ts';
import { SCORERS, SCORES_FOLDER } from '../../cskd/run.ts';
import { type Estimate, formatEstimate } from '../../eval/scores.ts';
import { readJson } from '../../run/files.ts';
import { requireStage } from '../../run/stage.ts';
import type { Session } from '../common.ts';

/** What each scorer has of the two phases. */
const TITLES: Readonly<Record<string, string>> = {
  supervised: 'labels alone',
  aligned: '+ alignment',
  unlabelled: '+ unlabelled images',
  student: '+ both',
  'teacher-plain': 'teacher, labels alone',
  teacher: 'teacher, + alignment',
};

const METRICS = ['srcc', 'plcc', 'accuracy', 'mse', 'squaredEmd'] as const;

/** Prints a line a scorer: what each phase adds. */
export async function printScores(session: Session, runFolder: string): Promise<void> {
  const folder = join(runFolder, SCORES_FOLDER);
  const { outputs } = await requireStage(folder, SCORES_FOLDER);
  const measured = new Set(outputs.map(({ path }) => path.replace(/\.json$/, '')));
  const names = SCORERS.filter((name) => measured.has(name));
  const results = new Map<string, ScorerResult>();
  for (const name of names) results.set(name, (await readJson(join(folder, `${name}.json`))) as ScorerResult);
  const rows = [['', 'parameters', ...METRICS]];
  for (const [name, { model, metrics }] of results) {
    rows.push([
      TITLES[name]!,
      model.parameters.toLocaleString('en-US'),
      ...METRICS.map((metric) => {
        const estimate: Estimate | undefined = metrics[metric];
        return estimate ? formatEstimate(estimate) : '';
      }),
    ]);
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
  const [first] = results.values();
  const about = first
    ? `Measured on ${first.data.images} images, with intervals of ${first.metrics.confidence}:`
    : '';
  const record = Object.fromEntries([...results].map(([name, { metrics }]) => [name, metrics]));
  session.print({ stage: SCORES_FOLDER, scorers: record }, `\n${about}\n${lines.join('\n')}`);
}
