/**
 * Trains the teacher of the emoji example from nothing and measures it on held-out concepts.
 *
 *   npm run build:all && node examples/emoji/train-teacher.mjs [--out DIR] [--install]
 *
 * Settings and seed are in settings.mjs. It can be stopped at any time and goes on when started again. With --install the finished model
 * replaces examples/emoji/teacher, with a card that says what it is.
 */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { clipCid, columns, evalSection, headline, readJson, show, teacherFolder } from './common.mjs';
import { readOptions } from './options.mjs';
import { prepare } from './prepare.mjs';
import { splitSeed, teacher } from './settings.mjs';

const values = readOptions('node examples/emoji/train-teacher.mjs [--out DIR] [--install]', {
  out: { type: 'string', default: 'runs/emoji-teacher' },
  install: { type: 'boolean', default: false },
});
const out = resolve(values.out);
const data = join(out, 'data');
mkdirSync(out, { recursive: true });
const counts = prepare({ out: data, seed: splitSeed });

const { legs, ...shared } = teacher;
let model;
for (const [number, leg] of legs.entries()) {
  const folder = join(out, number === 0 ? 'pretrain' : `pretrain-${number + 1}`);
  const pretrain = { ...leg, ...(model === undefined ? {} : { init: model }) };
  await clipCid('pretrain', '--config', writeConfig(folder, { ...shared, pretrain }), '--out', folder);
  model = join(folder, 'model');
}
const config = writeConfig(join(out, 'eval'), { ...shared, eval: evalSection(data) });
await clipCid('eval', '--config', config, '--model', model, '--out', join(out, 'eval'));
const scores = headline(readJson(join(out, 'eval', 'model.json')));
const rows = Object.entries(scores).map(([name, value]) => [name, show(name, value)]);
if (values.install) {
  rmSync(teacherFolder, { recursive: true, force: true });
  cpSync(model, teacherFolder, { recursive: true });
  writeFileSync(join(teacherFolder, 'README.md'), card());
  console.log(`Installed in ${teacherFolder}`);
}
console.log(`\n${columns([['Held-out concepts', 'teacher'], ...rows])}`);

function writeConfig(folder, settings) {
  const path = `${folder}.json`;
  writeFileSync(path, `${JSON.stringify({ data: join(data, 'train.jsonl'), ...settings }, null, 2)}\n`);
  return path;
}

function card() {
  const table = rows.map(([name, value]) => `| ${name} | ${value} |`).join('\n');
  return `# Teacher of the emoji example

A small CLIP for 64 x 64 drawings of emoji, for the demo and the tests of clip-cid. It knows nothing but emoji.

- **Made by** \`npm run build:all && node examples/emoji/train-teacher.mjs --install\`, from nothing, with the settings and the seed in
  \`examples/emoji/settings.mjs\` (seed ${teacher.seed}; two legs of ${legs.map(({ epochs }) => epochs).join(' and ')} epochs, batches of ${legs[0].batchSize}).
- **Data**: ${counts.images.train.toLocaleString('en-US')} images of ${counts.concepts.train.toLocaleString('en-US')} concepts with captions made of their names and
  classes, from \`emoji-datasource-google\` and \`emoji-datasource-twitter\` 16.0.0; see \`examples/emoji/prepare.mjs\`. Another
  ${counts.images.heldout.toLocaleString('en-US')} images of ${counts.concepts.heldout.toLocaleString('en-US')} concepts are held out.
- **Licence of the images**: Noto Emoji by Google (SIL Open Font License 1.1, Apache License 2.0); Twemoji by Twitter, Inc. and other
  contributors (CC BY 4.0). The model is under this package's Apache License 2.0.

Measured on the held-out concepts (shares; "seen" is on the training images):

| | |
|---|---|
${table}

Names of emoji that it has never seen it can hardly know: retrieval by them is near chance.
`;
}
