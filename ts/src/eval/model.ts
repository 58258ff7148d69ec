import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Encoder, OpenEncoderOptions } from '../encoder/encoder.ts';
import { readModel } from '../onnx/model.ts';
import type { ModelSummary } from './types.ts';

/** ONNX's numbers of float32, float16, float64 and bfloat16. */
const FLOATS = new Set([1, 10, 11, 16]);

/** Size of a model folder in parameters and bytes. */
export async function summariseModel(
  encoder: Encoder,
  { visionModel = 'onnx/vision_model.onnx', textModel = 'onnx/text_model.onnx' }: OpenEncoderOptions = {},
): Promise<ModelSummary> {
  const { folder, hash, dim, imageSize } = encoder;
  const split = existsSync(join(folder, visionModel));
  const files = split ? [visionModel, textModel] : ['onnx/model.onnx'];
  let bytes = 0;
  const parameters: number[] = [];
  for (const file of files.filter((name) => existsSync(join(folder, name)))) {
    const path = join(folder, file);
    parameters.push(await countParameters(path));
    bytes += (await stat(path)).size;
    const external = await stat(`${path}_data`).catch(() => undefined);
    bytes += external?.size ?? 0;
  }
  return {
    folder,
    hash,
    dim,
    imageSize,
    parameters: parameters.reduce((sum, count) => sum + count, 0),
    ...(split ? { imageParameters: parameters[0]! } : {}),
    bytes,
  };
}

async function countParameters(path: string): Promise<number> {
  const { graph } = await readModel(path);
  let count = 0;
  for (const { dataType, dims } of graph!.initializer) {
    if (FLOATS.has(dataType)) count += dims.reduce((product, size) => product * Number(size), 1);
  }
  return count;
}
