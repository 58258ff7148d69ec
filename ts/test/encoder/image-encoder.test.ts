import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeImage } from '../../src/data/image.ts';
import { openEncoder } from '../../src/encoder/encoder.ts';
import { openImageEncoder } from '../../src/encoder/image-encoder.ts';
import { packageRoot } from '../../src/native/loader.ts';

const teacher = join(packageRoot, 'examples/emoji/teacher');
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'image-encoder-'));
  cpSync(teacher, folder, { recursive: true });
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'onnx/text_model.onnx'])
    rmSync(join(folder, name));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('the image side alone gives what the whole model gives', async () => {
  const bytes = readFileSync(join(packageRoot, 'ts/test/fixtures/encoder/scene.jpg'));
  const image = await decodeImage(bytes);
  const [side, whole] = await Promise.all([
    openImageEncoder(folder, { threads: 1 }),
    openEncoder(teacher, { threads: 1 }),
  ]);
  expect([side.dim, side.imageSize]).toEqual([whole.dim, whole.imageSize]);
  expect([...(await side.embedImages([image, image]))]).toEqual([
    ...(await whole.embedImages([image, image])),
  ]);
  expect(side.hash).not.toBe(whole.hash);
  await Promise.all([side.dispose(), whole.dispose()]);
  await expect(side.embedImages([image])).rejects.toMatchObject({ code: 'DISPOSED' });
});

test('what is missing is named', async () => {
  await expect(openImageEncoder(folder, { imageOutput: 'tokens' })).rejects.toThrow(
    /expected the output tokens \(float\) but found image_embeds/,
  );
  await expect(openImageEncoder(join(folder, 'none'))).rejects.toMatchObject({ code: 'MODEL_INVALID' });
  const config = join(folder, 'preprocessor_config.json');
  const before = readFileSync(config, 'utf8');
  writeFileSync(config, before.replaceAll('64', '32'));
  await expect(openImageEncoder(folder)).rejects.toThrow(
    /takes images of 64 pixels and preprocessor_config.json makes them 32/,
  );
  writeFileSync(config, before);
  rmSync(join(folder, 'onnx/vision_model.onnx'));
  await expect(openImageEncoder(folder)).rejects.toThrow(/has no file .*vision_model.onnx, nor .*model.onnx/);
});
