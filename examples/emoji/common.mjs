import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { evaluation } from './settings.mjs';

const here = dirname(fileURLToPath(import.meta.url));

/** The committed teacher's model folder. */
export const teacherFolder = join(here, 'teacher');

/**
 * Runs a command of `clip-cid`; when it does not end well, this process ends with its exit code. In this process, not in one of its
 * own: whatever stops the script stops the work with it, and no lock stays with a process that nobody sees.
 */
export async function clipCid(...args) {
  const program = new URL('../../dist/cli/program.js', import.meta.url);
  if (!existsSync(program)) {
    console.error(`${fileURLToPath(program)} is not there. Build first: npm run build:all`);
    process.exit(1);
  }
  const { createProgram } = await import(program.href);
  await createProgram().parseAsync(args, { from: 'user' });
  if (process.exitCode) process.exit();
}

/** The `eval` section of a configuration for the data set in a folder that `prepare` wrote. */
export function evalSection(data) {
  const { templates, ...classes } = readJson(join(data, 'classes.json'));
  return {
    ...evaluation,
    data: join(data, 'heldout.jsonl'),
    train: join(data, 'train.jsonl'),
    classes,
    templates,
  };
}

export function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}

export function readJsonl(path) {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

/** The scores of an evaluation that the example's tables show, by what they are called there. */
export function headline({ model, zeroShot, imageImage, linearProbe, imageText }) {
  return {
    Parameters: model.parameters,
    'Files, MB': model.bytes / 1e6,
    'Zero-shot, 10 categories': zeroShot.category.top1,
    '... mean per category': zeroShot.category.meanPerClass,
    'Zero-shot, 99 subcategories': zeroShot.subcategory.top1,
    '... mean per subcategory': zeroShot.subcategory.meanPerClass,
    'Other vendor, recall@1': imageImage.recall['1'],
    '... mean over concepts': imageImage.recall1PerConcept,
    '... mean average precision': imageImage.meanAveragePrecision,
    'Linear probe, categories': linearProbe.category.top1,
    'Seen: image to name, recall@1': imageText.train.imageToText.recall['1'],
    'Seen: name to image, recall@1': imageText.train.textToImage.recall['1'],
    'Unseen: image to name, recall@1': imageText.data.imageToText.recall['1'],
  };
}

/** Value of a line of {@link headline} as text: sizes as they are, shares in per cent. */
export function show(name, value) {
  if (name === 'Parameters') return Math.round(value).toLocaleString('en-US');
  if (name === 'Files, MB') return value.toFixed(2);
  return `${(100 * value).toFixed(1)} %`;
}

/** Lines of text in columns: the first to the left, the others to the right. */
export function columns(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column])))
      .join('  ');
  const [head, ...body] = rows;
  const rule = '-'.repeat(widths.reduce((sum, width) => sum + width + 2, -2));
  return [line(head), rule, ...body.map(line)].join('\n');
}
