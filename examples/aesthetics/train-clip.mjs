/**
 * Trains the frozen CLIP of the aesthetics example from nothing, on scenes with captions.
 *
 *   npm run build:all && node examples/aesthetics/train-clip.mjs [--out DIR] [--install]
 *
 * A caption names what is in a scene and mostly what is wrong with the picture, the likelier the worse it is, and whether slightly or very, as comments
 * on photographs do. No caption has a score. It can be stopped at any time and goes on when started again. With --install the image side of the
 * finished model replaces examples/aesthetics/clip, with a card that says what it is.
 */
import { cpSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { clipCid, readJson } from '../emoji/common.mjs';
import { readOptions } from '../emoji/options.mjs';
import { words } from '../emoji/prepare.mjs';
import { clipFolder, emojiOf, writeScenes } from './prepare.mjs';
import { drawsOf } from './scenes.mjs';
import { clip } from './settings.mjs';

const looks = {
  jpeg: ['blocky', 'pixelated', 'compressed'],
  blur: ['blurry', 'blurred', 'out of focus'],
  noise: ['grainy', 'noisy'],
  bright: ['overexposed', 'washed out', 'bright'],
  dark: ['dark', 'underexposed'],
  cast: ['tinted', 'discoloured'],
  crop: ['cut off', 'cropped', 'off centre'],
};
/** How often a fault is mentioned: the least and the most severe one. */
const MENTIONED = [0.5, 1];
/** Degrees of comparison, each up to a severity as a person sees it, who is wrong by so much. */
const degrees = [
  ['slightly ', 0.3],
  ['', 0.65],
  ['very ', Number.POSITIVE_INFINITY],
];
const EYE = 0.12;
/** How often a picture with nothing wrong is called a good one. */
const PRAISED = 0.9;
const praise = ['clear', 'sharp', 'good'];

/** What people may say of a scene: its content, and what is wrong with it, if that is mentioned at all. */
function captionsOf(plan, emoji, seed) {
  const draws = drawsOf(`captions ${seed}`);
  const pick = (list) => list[draws.below(list.length)];
  const drawings = plan.drawings.map((drawing) => emoji[drawing.emoji]);
  const names = drawings.map(({ captions }) => captions[0].replace(/^an emoji of /, '')).join(', ');
  const classes = [...new Set(drawings.map(({ subcategory }) => words(subcategory)))].join(', ');
  const ground = colourOf(plan.ground.first);
  const said = Object.entries(plan.faults).flatMap(([kind, severity]) => {
    const name = kind === 'exposure' ? (plan.dark ? 'dark' : 'bright') : kind;
    const seen = severity + EYE * draws.normal();
    const degree = degrees.find(([, upTo]) => seen < upTo)[0];
    const [least, most] = MENTIONED;
    return draws.uniform() < least + (most - least) * severity ? [`${degree}${pick(looks[name])}`] : [];
  });
  if (Object.keys(plan.faults).length === 0 && draws.uniform() < PRAISED) said.push(pick(praise));
  const plain = `${classes} on ${ground}`;
  if (said.length === 0) return [plain, `a picture of ${names}`];
  const look = said.join(' and ');
  return [`${look} picture of ${names}`, `${look}, ${plain}`, `a ${look} picture`];
}

const COLOURS = [
  'red',
  'orange',
  'yellow',
  'green',
  'green',
  'green',
  'cyan',
  'blue',
  'blue',
  'purple',
  'purple',
  'pink',
];

/** A plain word for a colour, 0 to 1 a channel. */
function colourOf([r, g, b]) {
  const [low, high] = [Math.min(r, g, b), Math.max(r, g, b)];
  if (high - low < 0.1) return high < 0.35 ? 'black' : high > 0.8 ? 'white' : 'grey';
  const turn =
    high === r
      ? (g - b) / (high - low)
      : high === g
        ? 2 + (b - r) / (high - low)
        : 4 + (r - g) / (high - low);
  return COLOURS[Math.floor(2 * (turn < 0 ? turn + 6 : turn) + 0.5) % 12];
}

const values = readOptions('node examples/aesthetics/train-clip.mjs [--out DIR] [--install]', {
  out: { type: 'string', default: 'runs/aesthetics-clip' },
  install: { type: 'boolean', default: false },
});
const out = resolve(values.out);
mkdirSync(out, { recursive: true });
const { train } = emojiOf(join(out, 'emoji'));
const data = join(out, 'scenes.jsonl');
if (!existsSync(data)) {
  const scenes = await writeScenes(join(out, 'scenes'), 'clip', clip.scenes, train);
  const lines = scenes.map(({ key, image, plan }) =>
    JSON.stringify({ key, image: join('scenes', image), captions: captionsOf(plan, train, key) }),
  );
  writeFileSync(`${data}.tmp`, `${lines.join('\n')}\n`);
  renameSync(`${data}.tmp`, data);
}
const config = join(out, 'config.json');
writeFileSync(config, `${JSON.stringify({ data, seed: clip.seed, pretrain: clip.pretrain }, null, 2)}\n`);
await clipCid('pretrain', '--config', config, '--out', join(out, 'pretrain'));
const model = join(out, 'pretrain', 'model');
if (values.install) install();

/** The image side alone: nothing in the example reads a text. */
function install() {
  rmSync(clipFolder, { recursive: true, force: true });
  mkdirSync(join(clipFolder, 'onnx'), { recursive: true });
  for (const name of ['config.json', 'preprocessor_config.json', 'onnx/vision_model.onnx'])
    cpSync(join(model, name), join(clipFolder, name));
  const { summary } = readJson(join(out, 'pretrain', 'manifest.json'));
  writeFileSync(join(clipFolder, 'README.md'), card(summary));
  console.log(`Installed in ${clipFolder}`);
}

function card({ validation, heldOut, steps }) {
  const { epochs, batchSize } = clip.pretrain;
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  return `# The frozen CLIP of the aesthetics example

The image side of a small CLIP for scenes of 96 x 96 pixels, made of drawings of emoji. It stands in for the CLIP whose features CSKD aligns with, and
knows nothing but such scenes.

- **Made by** \`npm run build:all && node examples/aesthetics/train-clip.mjs --install\`, from nothing, with the settings and the seed in
  \`examples/aesthetics/settings.mjs\` (seed ${clip.seed}; ${epochs} epochs in batches of ${batchSize}, ${steps} steps). Views differ in geometry alone, so that it is
  not blind to colour, as the teacher of the other example is made to be.
- **Data**: ${clip.scenes.toLocaleString('en-US')} scenes of one to four drawings on a ground, made worse by up to two of six faults (\`examples/aesthetics/scenes.mjs\`). Drawings are those of
  \`examples/emoji/prepare.mjs\` for training; scenes of the example itself are others, and its test scenes show concepts that this model has never seen.
- **Captions** name what is in a scene and mostly what is wrong with it ("very grainy picture of a cat"), as comments on photographs do: the likelier, the worse
  it is, with "slightly" or "very" as an eye that errs sees it. No caption has a score, nor says how faults add up to one.
- **Licence of the images**: Noto Emoji by Google (SIL Open Font License 1.1, Apache License 2.0); Twemoji by Twitter, Inc. and other contributors
  (CC BY 4.0). The model is under this package's Apache License 2.0.

Retrieval among ${heldOut} held-out scenes of the same kind, each with one of its captions: image to text ${percent(validation.imageToText)}, text to image
${percent(validation.textToImage)} at rank 1; mean reciprocal rank ${percent(validation.reciprocalRank)}.
`;
}
