/**
 * Makes the data of the aesthetics example out of the drawings of the emoji example: scenes in files, and lists of them.
 */
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readJsonl } from '../emoji/common.mjs';
import { prepare } from '../emoji/prepare.mjs';
import { splitSeed } from '../emoji/settings.mjs';
import { Drawings, drawsOf, planScene, renderScene } from './scenes.mjs';
import { ratings, scenes } from './settings.mjs';

/** The committed frozen CLIP. */
export const clipFolder = join(dirname(fileURLToPath(import.meta.url)), 'clip');

/** Drawings by split: those of held-out concepts are in test scenes and nowhere else. */
export function emojiOf(folder) {
  prepare({ out: folder, seed: splitSeed });
  const read = (split) =>
    readJsonl(join(folder, `${split}.jsonl`)).map((item) => ({ ...item, path: join(folder, item.image) }));
  return { train: read('train'), heldout: read('heldout') };
}

/** Scenes written at once. */
const AT_ONCE = 8;

/** Writes `count` scenes of a set into a folder, those that are not there; the same for the same name and drawings. Returns key, file and plan of each. */
export async function writeScenes(folder, name, count, emoji) {
  mkdirSync(folder, { recursive: true });
  const drawings = new Drawings();
  const scenes = [];
  const write = async (i) => {
    const key = `${name}-${String(i).padStart(5, '0')}`;
    const plan = planScene(key, emoji.length);
    const image = `${key}.jpg`;
    const file = join(folder, image);
    if (!existsSync(file)) writeWhole(file, await renderScene(plan, (index) => emoji[index].path, drawings));
    scenes[i] = { key, image, plan };
  };
  for (let from = 0; from < count; from += AT_ONCE) {
    const numbers = Array.from({ length: Math.min(AT_ONCE, count - from) }, (_, k) => from + k);
    await Promise.all(numbers.map(write));
  }
  return scenes;
}

/**
 * The data of the example in a folder: `unlabelled/`, a folder of images; `rated.csv`, a list with a histogram of ratings each, of which those in
 * the split 'test' show drawings that no other scene has. The same for everybody; what is there already is kept.
 *
 * @returns Paths of the folder of images and of the list.
 */
export async function prepareScenes(folder, counts = scenes) {
  const list = join(folder, 'rated.csv');
  const unlabelled = join(folder, 'unlabelled');
  if (!existsSync(list)) {
    const { train, heldout } = emojiOf(join(folder, 'emoji'));
    await writeScenes(unlabelled, 'unlabelled', counts.unlabelled, train);
    const labelled = await writeScenes(join(folder, 'rated'), 'labelled', counts.labelled, train);
    const test = await writeScenes(join(folder, 'rated'), 'test', counts.test, heldout);
    const bins = Array.from({ length: 10 }, (_, k) => k + 1);
    const lines = [['image', 'split', 'quality', 'faults', ...bins].join(',')];
    for (const [split, set] of Object.entries({ train: labelled, test })) {
      for (const { key, image, plan } of set) {
        const faults = Object.entries(plan.faults).map(
          ([kind, severity]) => `${kind} ${severity.toFixed(3)}`,
        );
        const histogram = rate(key, plan.quality);
        lines.push(
          [join('rated', image), split, plan.quality.toFixed(4), faults.join('; '), ...histogram].join(','),
        );
      }
    }
    writeWhole(list, `${lines.join('\n')}\n`);
  }
  return { unlabelled, list };
}

/** How many raters give 1, 2, …, 10 to a scene of this quality. */
export function rate(key, quality, { raters, taste, deviation } = ratings) {
  const draws = drawsOf(`ratings ${key}`);
  const mean = 1 + 9 * quality + taste * draws.normal();
  const histogram = new Array(10).fill(0);
  for (let rater = 0; rater < raters; rater++) {
    const rating = Math.round(mean + deviation * draws.normal());
    histogram[Math.min(10, Math.max(1, rating)) - 1]++;
  }
  return histogram;
}

export function writeWhole(path, data) {
  writeFileSync(`${path}.tmp`, data);
  renameSync(`${path}.tmp`, path);
}
