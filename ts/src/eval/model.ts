import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { OpenEncoderOptions } from '../encoder/encoder.ts';
import type { ImageEncoder } from '../encoder/image-encoder.ts';
import { CidError } from '../native/errors.ts';
import { readModel } from '../onnx/model.ts';
import type { ModelProto } from '../onnx/onnx_pb.ts';
import { importModel } from '../program/import.ts';
import type { ModelSummary } from './types.ts';

/** ONNX's numbers of float32, float16, float64 and bfloat16. */
const FLOATS = new Set([1, 10, 11, 16]);

/** Size of a model folder in parameters and bytes; of one with an image side alone, that. */
export async function summariseModel(
  encoder: ImageEncoder,
  { visionModel = 'onnx/vision_model.onnx', textModel = 'onnx/text_model.onnx' }: OpenEncoderOptions = {},
): Promise<ModelSummary> {
  const { folder, hash, dim, imageSize } = encoder;
  const towers = [join(folder, visionModel), join(folder, textModel)].filter((path) => existsSync(path));
  const split = towers.length === 2;
  const files =
    towers.length > 0 ? towers : [join(folder, 'onnx/model.onnx')].filter((path) => existsSync(path));
  let bytes = 0;
  const parameters: number[] = [];
  for (const path of files) {
    parameters.push(await countParameters(path));
    bytes += await sizeOf(path);
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

/** Numbers that training would learn or keep, as it counts them itself: no masks, and no single numbers of the arithmetic. */
async function countParameters(path: string): Promise<number> {
  const model = await readModel(path);
  try {
    return importModel(model).parameters.reduce((sum, { value }) => sum + value.length, 0);
  } catch (error) {
    if (!(error instanceof CidError)) throw error;
    return countFloats(model);
  }
}

/** Of a model that cannot be trained: all floating-point numbers. */
function countFloats({ graph }: ModelProto): number {
  let count = 0;
  for (const { dataType, dims } of graph!.initializer) {
    if (FLOATS.has(dataType)) count += dims.reduce((product, size) => product * Number(size), 1);
  }
  return count;
}

/** Bytes of a model with the files of external data beside it, whose names begin with its own. */
async function sizeOf(path: string): Promise<number> {
  const names = (await readdir(dirname(path))).filter((name) => name.startsWith(basename(path)));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(dirname(path), name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
