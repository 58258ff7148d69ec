import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { ScoreMetrics } from '../eval/scores.ts';
import { readJson } from '../run/files.ts';
import { readStage } from '../run/stage.ts';
import type { ScorerResult } from './evaluate.ts';

/** Scorers of a run by the name that they have in files, in the order of tables: from nothing to both phases, then the teachers. */
export const SCORERS = [
  'supervised',
  'aligned',
  'unlabelled',
  'student',
  'teacher-plain',
  'teacher',
] as const;
export type ScorerName = (typeof SCORERS)[number];

/** Folder of the stage that trained a scorer, in a run folder. */
export const scorerFolder = (name: ScorerName) => `scorer-${name}`;

/** What each has of the two phases. */
export const scorerTitles: Readonly<Record<ScorerName, string>> = {
  supervised: 'labels alone',
  aligned: '+ alignment',
  unlabelled: '+ unlabelled images',
  student: '+ both',
  'teacher-plain': 'teacher, labels alone',
  teacher: 'teacher, + alignment',
};

/** Figures of tables, with what they are called and whether more is better. */
export const scoreFigures = {
  srcc: { title: 'SRCC', more: true },
  plcc: { title: 'PLCC', more: true },
  accuracy: { title: 'accuracy', more: true },
  mse: { title: 'MSE', more: false },
  squaredEmd: { title: 'squared EMD', more: false },
} as const satisfies Partial<Record<keyof ScoreMetrics, { title: string; more: boolean }>>;
export type ScoreFigure = keyof typeof scoreFigures;

/** Folder of a run in which its scorers are measured. */
export const SCORES_FOLDER = 'scores';

export interface NamedScores {
  readonly name: ScorerName;
  readonly result: ScorerResult;
}

/** Scorers that a run has measured, in the order of tables; none where it has not, or not to the end. */
export async function readScores(runFolder: string): Promise<NamedScores[]> {
  const folder = join(runFolder, SCORES_FOLDER);
  const stage = await readStage(folder);
  if (stage?.status !== 'done') return [];
  const found: NamedScores[] = [];
  for (const name of SCORERS) {
    const path = join(folder, `${name}.json`);
    const measured = stage.outputs.some((output) => output.path === `${name}.json`);
    if (measured && existsSync(path)) found.push({ name, result: (await readJson(path)) as ScorerResult });
  }
  return found;
}
