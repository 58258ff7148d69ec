import type { DataSummary, EvaluateResult, RecallResult } from './types.ts';

/** An evaluation as lines for a person. */
export function formatEvaluation(result: EvaluateResult): string {
  const { model, data, train } = result;
  const lines = [
    `${model.folder}: ${model.parameters.toLocaleString('en-US')} parameters, ${(model.bytes / 1e6).toFixed(2)} MB`,
    `  ${data.images} images of ${data.source}${left(data.skipped)}`,
  ];
  const seen = describeSeen(data);
  if (seen !== undefined) lines.push(`  NOTE: ${seen}`);
  if (train)
    lines.push(`  trained on or seen: ${train.images} images of ${train.source}${left(train.skipped)}`);
  for (const [field, scores] of Object.entries(result.zeroShot ?? {})) {
    lines.push(
      `  zero-shot, ${field} (${scores.classes}): top-1 ${percent(scores.top1)}, top-5 ${percent(scores.top5)}, ` +
        `mean per class ${percent(scores.meanPerClass)} (chance ${percent(scores.chance)})`,
    );
  }
  if (result.imageImage) {
    const { meanAveragePrecision, recall1PerConcept, concepts } = result.imageImage;
    lines.push(
      `  image to image: ${recalls(result.imageImage)}, mAP ${percent(meanAveragePrecision)}, ` +
        `R@1 over ${concepts} concepts ${percent(recall1PerConcept)}`,
    );
  }
  for (const [field, scores] of Object.entries(result.linearProbe ?? {})) {
    lines.push(
      `  linear probe, ${field} (${scores.classes}): top-1 ${percent(scores.top1)}, ` +
        `mean per class ${percent(scores.meanPerClass)}, L2 ${scores.l2}${scores.converged ? '' : ' (not converged)'}`,
    );
  }
  for (const [name, scores] of Object.entries(result.imageText ?? {})) {
    const which = name === 'train' ? 'seen images' : 'images';
    lines.push(`  ${which} to text: ${recalls(scores.imageToText)}`);
    lines.push(`  text to ${which}: ${recalls(scores.textToImage)}`);
    if (scores.note) lines.push(`    ${scores.note}`);
  }
  return lines.join('\n');
}

/** A warning where images that were measured on are training images: in a sentence, or undefined. */
export function describeSeen({ images, seen = 0 }: DataSummary): string | undefined {
  if (seen === 0) return undefined;
  if (seen >= images)
    return 'all of these images are training images: the scores say what was learned by heart, and little of new images';
  return `${seen} of these images are training images, so that the scores are better than those of new images would be`;
}

const left = (skipped: number) => (skipped > 0 ? ` (${skipped} could not be decoded)` : '');

/** A share as a percentage with one digit. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function recalls({ recall, chance, candidates }: RecallResult): string {
  const parts = (['1', '5', '10'] as const).map((k) => `R@${k} ${percent(recall[k])}`);
  return `${parts.join(', ')} of ${candidates} (chance of R@1 ${percent(chance['1'])})`;
}
