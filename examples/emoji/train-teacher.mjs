/**
 * Trains the teacher of the emoji example from nothing and measures it on held-out concepts.
 *
 *   npm run build && node examples/emoji/train-teacher.mjs [--out DIR] [--install]
 *
 * Settings and seed are in settings.mjs. It can be stopped at any time and goes on when started again. With --install the finished model
 * replaces examples/emoji/teacher.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { clipCid, evalSection, teacherFolder } from './common.mjs';
import { prepare } from './prepare.mjs';
import { splitSeed, teacher } from './settings.mjs';

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: 'runs/emoji-teacher' },
    install: { type: 'boolean', default: false },
  },
});
const out = resolve(values.out);
const data = join(out, 'data');
mkdirSync(out, { recursive: true });
prepare({ out: data, seed: splitSeed });

const config = join(out, 'config.json');
const settings = { data: join(data, 'train.jsonl'), ...teacher, eval: evalSection(data) };
writeFileSync(config, `${JSON.stringify(settings, null, 2)}\n`);

const model = join(out, 'pretrain', 'model');
await clipCid('pretrain', '--config', config, '--out', join(out, 'pretrain'));
await clipCid('eval', '--config', config, '--model', model, '--out', join(out, 'eval'));
if (values.install) {
  cpSync(model, teacherFolder, { recursive: true });
  console.log(`Installed in ${teacherFolder}`);
}
