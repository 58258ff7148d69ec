import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import {
  AutoProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  env,
  RawImage,
} from '@huggingface/transformers';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tokenizerConfig, trainTokenizer } from '../../src/encoder/bpe.ts';
import { writeJson } from '../../src/run/files.ts';
import { centreView } from '../../src/student/augment.ts';
import { studentConfig } from '../../src/student/config.ts';
import { exportStudent } from '../../src/student/export.ts';
import { loadStudent } from '../../src/student/load.ts';
import { newStudent, type StudentModel, tokenizerOf } from '../../src/student/model.ts';
import { clipNormalisation, renderPixels } from '../../src/student/views.ts';

const texts = ['a red fox', 'a green frog and a red fox', 'two dogs', 'the fox and the frog'];
let root: string;
let student: StudentModel;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'export-'));
  const files = { json: trainTokenizer(texts, { vocabSize: 530 }), config: tokenizerConfig(12) };
  const config = studentConfig({
    embedDim: 8,
    vision: { imageSize: 16, patchSize: 8, width: 12, layers: 1, heads: 3 },
    text: { vocabSize: tokenizerOf(files).vocabSize, contextLength: 12, width: 8, layers: 2, heads: 2 },
  });
  student = newStudent(config, 7, files);
  await write('float32', student);
  await write('float16', student);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function write(dtype: 'float32' | 'float16', model: StudentModel): Promise<void> {
  const { startId: start, endId: end, padId: pad, vocabSize: count } = tokenizerOf(model.tokenizerFiles);
  await exportStudent(
    join(root, dtype),
    {
      ...model,
      text: model.exportedText,
      values: new Map(model.parameters.map(({ name, value }) => [name, value])),
      tokenizer: model.tokenizerFiles,
      logScale: 3.25,
      tokens: { start, end, pad, count },
    },
    dtype,
  );
}

function valuesOf(model: StudentModel): Map<string, Float32Array> {
  return new Map(model.parameters.map(({ name, value }) => [name, value]));
}

/** The first python3 that has the package; a shell's own may hide the system's. */
async function pythonWithOnnx(): Promise<string | undefined> {
  for (const python of ['python3', '/usr/bin/python3']) {
    const found = await promisify(execFile)(python, ['-c', 'import onnx']).catch(() => undefined);
    if (found) return python;
  }
  return undefined;
}

describe('an exported student', () => {
  it('passes the checker of ONNX', async ({ skip }) => {
    const script = resolve('scripts/check-onnx.py');
    const python = await pythonWithOnnx();
    if (python === undefined) return skip('no python3 with the onnx package');
    const { stdout } = await promisify(execFile)(python, [script, root]);
    expect(stdout.match(/: ok$/gm)).toHaveLength(4);
  });

  it('runs in transformers.js from its folder, with the embeddings that the towers have', async () => {
    env.allowRemoteModels = false;
    env.localModelPath = root;
    const options = { dtype: 'fp32', device: 'cpu', local_files_only: true } as const;
    const [tokenizer, processor, textModel, visionModel] = await Promise.all([
      AutoTokenizer.from_pretrained('float32'),
      AutoProcessor.from_pretrained('float32', {}),
      CLIPTextModelWithProjection.from_pretrained('float32', options),
      CLIPVisionModelWithProjection.from_pretrained('float32', options),
    ]);
    const inputs = tokenizer(texts, { padding: true, truncation: true });
    const { text_embeds } = await textModel(inputs);
    expect(text_embeds.dims).toEqual([4, 8]);
    const own = tokenizerOf(student.tokenizerFiles);
    const { inputIds, length } = own.encode(texts, 12);
    const session = await InferenceSession.create(join(root, 'float32/onnx/text_model.onnx'));
    const ids = new Tensor('int64', BigInt64Array.from(inputIds, BigInt), [4, length]);
    const expected = (await session.run({ input_ids: ids })).text_embeds!.data as Float32Array;
    for (const [i, value] of expected.entries()) expect(text_embeds.data[i]).toBeCloseTo(value, 5);

    const data = Uint8ClampedArray.from({ length: 16 * 16 * 3 }, (_, i) => (i * 53) % 256);
    const { pixel_values } = await processor(new RawImage(data, 16, 16, 3));
    const pixels = new Float32Array(3 * 256);
    const picture = { data: Uint8Array.from(data), width: 16, height: 16 };
    await renderPixels([picture], [centreView(16, 16)], 16, clipNormalisation, pixels);
    for (const [i, value] of pixels.entries()) expect(pixel_values.data[i]).toBeCloseTo(value, 4);
    const { image_embeds } = await visionModel({ pixel_values });
    expect(image_embeds.dims).toEqual([1, 8]);
  });

  it('is the student again when it is loaded, its logit scale too', async () => {
    const loaded = await loadStudent(join(root, 'float32'));
    expect(valuesOf(loaded)).toEqual(valuesOf(student));
    expect(loaded.config).toEqual(student.config);
    expect(loaded.logScale).toBe(3.25);
    expect(tokenizerOf(loaded.tokenizerFiles).vocabSize).toBe(tokenizerOf(student.tokenizerFiles).vocabSize);
  });

  it('is half the size in float16, and rounds weights by half a step at most', async () => {
    const size = async (dtype: string) => (await stat(join(root, dtype, 'onnx/text_model.onnx'))).size;
    const embeddings = 4 * student.config!.text.vocabSize * 8;
    expect((await size('float32')) - (await size('float16'))).toBeGreaterThan(embeddings / 2);
    const loaded = valuesOf(await loadStudent(join(root, 'float16')));
    for (const [name, value] of valuesOf(student)) {
      for (const [i, x] of value.entries()) {
        expect(Math.abs(loaded.get(name)![i]! - x)).toBeLessThanOrEqual(Math.abs(x) * 2 ** -11 + 2 ** -25);
      }
    }
  });

  it('leaves nothing of an export that was killed before it', async () => {
    const left = ['onnx/.vision_model.onnx.4711-0123abcd.tmp', '.config.json.4711-0123abcd.tmp'];
    for (const name of left) await writeFile(join(root, 'float32', name), 'half');
    await write('float32', student);
    const names = await readdir(join(root, 'float32'), { recursive: true });
    expect(names.filter((name) => name.endsWith('.tmp'))).toEqual([]);
    expect(names).toContain('config.json');
  });

  it('is refused where the folder is not what it says, naming what is wrong', async () => {
    const other = join(root, 'other');
    await cp(join(root, 'float32'), other, { recursive: true });
    const config = JSON.parse(await readFile(join(other, 'config.json'), 'utf8'));
    config.clip_cid.text.layers = 3;
    await writeJson(join(other, 'config.json'), config);
    await expect(loadStudent(other)).rejects.toMatchObject({
      code: 'MODEL_INVALID',
      message: expect.stringContaining("'text.blocks.2.norm1.weight'"),
    });
    await rm(join(other, 'onnx/vision_model.onnx'));
    await expect(loadStudent(other)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('vision_model.onnx'),
    });
    await expect(loadStudent(join(root, 'nothing'))).rejects.toMatchObject({ code: 'MODEL_INVALID' });
  });
});
