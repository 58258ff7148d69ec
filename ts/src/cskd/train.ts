import type { RatedDataset } from '../data/rated/dataset.ts';
import { describeScale, type ScoreScale, sameBins } from '../data/rated/scale.ts';
import { expectObject, expectOneOf, failRange, failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { hashBytes } from '../run/hash.ts';
import { oncePerBatch } from '../student/optimise.ts';
import type { ScoreBatch } from './batches.ts';
import { softmaxRows } from './emd.ts';
import {
  LEARNER_OPTIONS,
  type LearnerOptions,
  prepare,
  SCORER_OPTIONS,
  type ScorerTrainingOptions,
  type TrainedScorer,
  trainLearners,
  type UnlabelledSet,
} from './learners.ts';
import type { Scorer } from './scorer.ts';

/**
 * Training of a scorer, CSKD's second phase: a teacher on labels alone, or a student on labels and on the teacher's score distributions of
 * unlabelled images.
 */
export interface TrainScorerOptions extends ScorerTrainingOptions, LearnerOptions {
  /** The teacher, opened; needed for `targets: 'online'`. The caller disposes of it. */
  teacher?: Scorer;
  /** Whose distributions the student learns: those of the plain images, computed before, or of the very views that it sees. Defaults to 'cached'. */
  targets?: 'cached' | 'online';
}

/**
 * Two learners at once, each on the labels and on the other's current distributions of the unlabelled images: a reading of the paper's second
 * version, which says that two aligned learners distil collaboratively and no more. Unconfirmed.
 */
export interface TrainMutualOptions extends ScorerTrainingOptions {
  /** The other learner, which becomes `teacher-model`. */
  teacher: LearnerOptions;
  /** The learner that counts: validation, the best checkpoint and `model` are its. */
  student: LearnerOptions;
}

/** Trains a scorer; see {@link TrainScorerOptions}. Goes on with what is in `folder`. */
export async function trainScorer(options: TrainScorerOptions): Promise<TrainedScorer> {
  expectObject('options', options, [...SCORER_OPTIONS, ...LEARNER_OPTIONS, 'teacher', 'targets']);
  const { unlabelled = [], teacher } = options;
  const targets = expectOneOf('targets', options.targets ?? 'cached', ['cached', 'online']);
  const { scale } = expectLabelled(options);
  const { bins } = scale;
  for (const [i, { data, distributions }] of unlabelled.entries()) {
    if (targets === 'online') continue;
    if (!(distributions instanceof Float32Array))
      failType("the teacher's distributions", `unlabelled[${i}].distributions`, distributions);
    if (distributions.length !== data.length * bins)
      failRange(`${data.length} rows of ${bins} shares`, `unlabelled[${i}].distributions`, distributions);
  }
  if (unlabelled.length > 0 && targets === 'online') {
    if (!teacher) failType('an opened scorer', 'teacher', teacher);
    expectTeacher(teacher.scale, scale);
  }
  const run = await prepare(options, { scorer: options });
  const pseudo =
    targets === 'online'
      ? oncePerBatch((batch: ScoreBatch, signal?: AbortSignal) => teacher!.embedImages(batch.views, signal))
      : cachedPseudo(unlabelled, bins);
  return trainLearners(options, run, {
    stage: 'train',
    primary: 'scorer',
    viewSize: targets === 'online' ? teacher?.imageSize : undefined,
    pseudo: async (batch) => ({ scorer: await pseudo(batch) }),
    targets: targets === 'online' ? pseudo : undefined,
    identity: {
      targets: unlabelled.length > 0 ? targets : null,
      teacher: targets === 'online' ? (teacher?.hash ?? null) : null,
      distributions:
        targets === 'cached'
          ? unlabelled.map(({ distributions: d }) =>
              hashBytes(new Uint8Array(d!.buffer, d!.byteOffset, d!.byteLength)),
            )
          : null,
    },
  });
}

/**
 * Trains two scorers on each other; see {@link TrainMutualOptions}. The result is the student's; the other learner is in `teacher-model` of the
 * folder.
 */
export async function trainMutual(options: TrainMutualOptions): Promise<TrainedScorer> {
  expectObject('options', options, [...SCORER_OPTIONS, 'teacher', 'student']);
  for (const role of ['teacher', 'student'] as const) expectObject(role, options[role], LEARNER_OPTIONS);
  const { unlabelled = [] } = options;
  if (unlabelled.length === 0)
    failType('unlabelled images to learn from each other on', 'unlabelled', unlabelled);
  const { bins } = expectLabelled(options).scale;
  const run = await prepare(options, { student: options.student, teacher: options.teacher });
  return trainLearners(options, run, {
    stage: 'mutual',
    primary: 'student',
    viewSize: undefined,
    // Each is given what the other says now; neither is told how the other got there.
    pseudo: async (_batch, logits) => ({
      student: softmaxRows(logits.teacher!, bins),
      teacher: softmaxRows(logits.student!, bins),
    }),
    identity: { mutual: true },
  });
}

function expectLabelled({ labelled }: ScorerTrainingOptions): RatedDataset {
  if (typeof labelled !== 'object' || labelled === null || !('scale' in labelled))
    failType('images with ratings', 'labelled', labelled);
  return labelled;
}

/** A teacher's distributions have to be over the bins of the labels. Throws CidError INVALID_DATA. */
export function expectTeacher(teacher: ScoreScale, labels: ScoreScale): void {
  if (sameBins(teacher, labels)) return;
  throw new CidError(
    'INVALID_DATA',
    `Expected a teacher on the scale of the labels, ${describeScale(labels)}, but it rates on ${describeScale(teacher)}`,
  );
}

/** Rows of what was computed before, by place. */
function cachedPseudo(
  unlabelled: readonly UnlabelledSet[],
  bins: number,
): (batch: ScoreBatch) => Promise<Float32Array> {
  const offsets: number[] = [];
  let length = 0;
  for (const { data } of unlabelled) {
    offsets.push(length);
    length += data.length;
  }
  return async ({ places }) => {
    const picked = new Float32Array(places.length * bins);
    for (const [i, place] of places.entries()) {
      const set = offsets.findLastIndex((offset) => offset <= place);
      const row = place - offsets[set]!;
      picked.set(unlabelled[set]!.distributions!.subarray(row * bins, (row + 1) * bins), i * bins);
    }
    return picked;
  };
}
