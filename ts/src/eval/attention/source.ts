import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { hashModel } from '../../encoder/identity.ts';
import { type Preprocessing, parsePreprocessing, readPreprocessing } from '../../encoder/preprocess.ts';
import { expectInteger, expectString } from '../../native/check.ts';
import { CidError } from '../../native/errors.ts';
import { decodeModel } from '../../onnx/model.ts';
import type { ModelProto, ValueInfoProto } from '../../onnx/onnx_pb.ts';
import { type ElementType, elementType } from '../../onnx/tensor.ts';
import { readError } from '../../run/files.ts';
import { hashFile, hashValue } from '../../run/hash.ts';

/** An image model to be looked into: any ONNX graph that takes images. */
export interface ModelSource {
  /** Of the ONNX file. */
  readonly path: string;
  /** Without its external data, which stays in the file's folder. */
  readonly model: ModelProto;
  /** Input for images, [images, 3, size, size]. */
  readonly input: string;
  readonly inputType: 'float32' | 'float16';
  /** Images of a run, where the model fixes them. */
  readonly batch: number | undefined;
  readonly preprocessing: Preprocessing;
  /** What was assumed, in sentences. */
  readonly notes: readonly string[];
}

export interface ModelSourceOptions {
  /** File within a model folder. Defaults to `onnx/vision_model.onnx`, `onnx/model.onnx`, or the only ONNX file. */
  readonly file?: string;
  /** Side of the images in pixels, for a model without `preprocessor_config.json` that leaves it open. */
  readonly imageSize?: number;
}

const PREPROCESSOR = 'preprocessor_config.json';

/**
 * Opens a model folder or an ONNX file. How images are prepared comes from the `preprocessor_config.json` in the folder, beside the file or
 * in the folder above it; without one, they are brought to the model's size with CLIP's normalisation, which the notes say.
 *
 * Fails with MODEL_INVALID when there is no such model or it takes no images, and with MODEL_UNSUPPORTED for preprocessing or layouts that
 * are not built.
 */
export async function openModelSource(path: string, options: ModelSourceOptions = {}): Promise<ModelSource> {
  expectString('model', path);
  if (options.imageSize !== undefined) expectInteger('imageSize', options.imageSize, 1, 1 << 14);
  const file = await modelFile(path, options.file);
  const bytes = await readFile(file).catch((error) => {
    throw readError(file, error);
  });
  const model = decodeModel(bytes, file);
  const input = imageInput(model, file);
  const { type, dims } = shapeOf(input);
  const notes: string[] = [];
  const preprocessing = await preprocessingOf(file, dims, options.imageSize, notes);
  if (typeof dims[2] === 'number' && dims[2] !== preprocessing.imageSize) {
    throw new CidError(
      'MODEL_INVALID',
      `${file} takes images of ${dims[2]} pixels and its preprocessing makes them ${preprocessing.imageSize}`,
    );
  }
  return {
    path: file,
    model,
    input: input.name,
    inputType: type as 'float32' | 'float16',
    batch: dims[0],
    preprocessing,
    notes,
  };
}

/** Hash of what decides a model's outputs: a folder's models and configurations, or a file, what lies beside it under its name, and how images are prepared. */
export async function identifyModel(path: string): Promise<string> {
  const status = await stat(path).catch(() => undefined);
  if (!status?.isFile()) return hashModel(path);
  const folder = dirname(path);
  const beside = (await readdir(folder)).filter((name) => name.startsWith(basename(path))).sort();
  const files = beside.map((name) => join(folder, name));
  const preprocessor = configuredIn(path);
  if (preprocessor !== undefined) files.push(join(preprocessor, PREPROCESSOR));
  return hashValue(await Promise.all(files.map(hashFile)));
}

/** The folder with the configuration of how images are prepared for a model file. */
function configuredIn(file: string): string | undefined {
  return [dirname(file), join(dirname(file), '..')].find((place) => existsSync(join(place, PREPROCESSOR)));
}

/** The ONNX file that a model folder, or a path to a file, means. Fails with MODEL_INVALID. */
export async function modelFile(path: string, named: string | undefined): Promise<string> {
  const status = await stat(path).catch(() => undefined);
  if (!status) throw new CidError('MODEL_INVALID', `There is no model ${path}`);
  if (status.isFile()) return path;
  const candidates =
    named === undefined
      ? ['onnx/vision_model.onnx', 'onnx/model.onnx', 'vision_model.onnx', 'model.onnx']
      : [named];
  const found = candidates.map((name) => join(path, name)).find((file) => existsSync(file));
  if (found !== undefined) return found;
  const others = (await readdir(path)).filter((name) => extname(name) === '.onnx');
  if (named === undefined && others.length === 1) return join(path, others[0]!);
  throw new CidError(
    'MODEL_INVALID',
    `${path} has no file ${candidates.join(', ')}${others.length > 0 ? `; there are ${others.join(', ')}` : ''}`,
  );
}

/** `pixel_values`, or the only input of rank 4. Fails with MODEL_INVALID and MODEL_UNSUPPORTED. */
export function imageInput(model: ModelProto, file: string): ValueInfoProto {
  const graph = model.graph!;
  const weights = new Set(graph.initializer.map(({ name }) => name));
  const inputs = graph.input.filter(({ name }) => !weights.has(name));
  const images = inputs.filter((input) => shapeOf(input).dims.length === 4);
  const found =
    inputs.find(({ name }) => name === 'pixel_values') ?? (images.length === 1 ? images[0] : undefined);
  if (!found) {
    const names = inputs.map(({ name }) => name).join(', ') || 'none';
    throw new CidError(
      'MODEL_INVALID',
      `${file} takes no images: expected the input pixel_values but found ${names}`,
    );
  }
  const { type, dims } = shapeOf(found);
  if ((type !== 'float32' && type !== 'float16') || dims.length !== 4 || (dims[1] ?? 3) !== 3) {
    const shape = dims.map((dim) => dim ?? '?').join(', ');
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `${file} takes ${type ?? 'unknown'} images [${shape}], where float32 or float16 [images, 3, size, size] is expected`,
    );
  }
  return found;
}

/** Type and dimensions of an input or output; those left open are undefined. */
export function shapeOf(value: ValueInfoProto): {
  type: ElementType | undefined;
  dims: (number | undefined)[];
} {
  const tensor = value.type?.value.case === 'tensorType' ? value.type.value.value : undefined;
  const dims = (tensor?.shape?.dim ?? []).map(({ value: dim }) =>
    dim.case === 'dimValue' && dim.value > 0n ? Number(dim.value) : undefined,
  );
  return { type: elementType(tensor?.elemType ?? 0), dims };
}

async function preprocessingOf(
  file: string,
  dims: readonly (number | undefined)[],
  imageSize: number | undefined,
  notes: string[],
): Promise<Preprocessing> {
  const folder = configuredIn(file);
  if (folder !== undefined && imageSize === undefined) return readPreprocessing(folder);
  const size = imageSize ?? dims[2];
  if (size === undefined) {
    throw new CidError(
      'MODEL_INVALID',
      `${file} takes images of any size and has no ${PREPROCESSOR} beside it: say their size in pixels (imageSize)`,
    );
  }
  if (folder !== undefined) return { ...(await readPreprocessing(folder)), ...squareOf(size) };
  notes.push(
    `There is no ${PREPROCESSOR} beside ${file}: images are prepared as for CLIP, ${size} pixels wide`,
  );
  return { ...parsePreprocessing({}, PREPROCESSOR), ...squareOf(size) };
}

const squareOf = (size: number) => ({ resize: { shortest: size }, crop: size, imageSize: size });
