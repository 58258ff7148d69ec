import { join } from 'node:path';
import { halfToFloat } from '../data/half.ts';
import { readModelJson } from '../encoder/tokenizer.ts';
import { CidError } from '../native/errors.ts';
import { readModel } from '../onnx/model.ts';
import { decodeTensor } from '../onnx/tensor.ts';
import type { Parameter } from '../program/executor.ts';
import { hashFile, hashValue } from '../run/hash.ts';
import { studentConfig } from './config.ts';
import { CONFIG_KEY } from './export.ts';
import { importImageTower, importTextTower } from './imported.ts';
import { newStudent, type StudentModel, type TokenizerFiles, tokenizerOf } from './model.ts';
import { clipNormalisation } from './views.ts';

const MODELS = ['vision_model.onnx', 'text_model.onnx'] as const;

/**
 * A student to train on from a model folder: one that this package exported, or any CLIP with `onnx/vision_model.onnx` and
 * `onnx/text_model.onnx`, whose graphs are then trained as they are. Fails with MODEL_INVALID or MODEL_UNSUPPORTED, naming the file.
 */
export async function loadStudent(folder: string): Promise<StudentModel> {
  const [config, json, tokenizerConfig, preprocessor] = await Promise.all(
    ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'].map((name) =>
      readModelJson(join(folder, name)),
    ),
  );
  const files = { json: json!, config: tokenizerConfig! };
  const sizes = config![CONFIG_KEY];
  const model =
    typeof sizes === 'object' && sizes !== null
      ? await rebuild(folder, sizes, files)
      : await importStudent(folder, config!, preprocessor!, files);
  const logScale = config!.logit_scale_init_value;
  const { image_mean: mean, image_std: std } = preprocessor!;
  return {
    ...model,
    ...(Array.isArray(mean) &&
      Array.isArray(std) && { normalisation: { mean: mean as number[], std: std as number[] } }),
    ...(typeof logScale === 'number' && { logScale }),
    identity: hashValue({
      model: model.identity,
      weights: await Promise.all(MODELS.map((name) => hashFile(join(folder, 'onnx', name)))),
    }),
  };
}

async function rebuild(folder: string, sizes: object, files: TokenizerFiles): Promise<StudentModel> {
  const model = newStudent(studentConfig(sizes), 0, files);
  const values = new Map<string, Float32Array>();
  for (const name of MODELS) await readWeights(join(folder, 'onnx', name), values);
  const parameters: Parameter[] = model.parameters.map((parameter) => {
    const value = values.get(parameter.name);
    if (value?.length !== parameter.value.length) {
      throw new CidError(
        'MODEL_INVALID',
        `${folder} lacks the weights '${parameter.name}' of its own architecture`,
      );
    }
    return { ...parameter, value };
  });
  return { ...model, parameters };
}

type Json = Readonly<Record<string, unknown>>;

async function importStudent(
  folder: string,
  config: Json,
  preprocessor: Json,
  files: TokenizerFiles,
): Promise<StudentModel> {
  const [visionPath, textPath] = MODELS.map((name) => join(folder, 'onnx', name)) as [string, string];
  const crop = preprocessor.crop_size as number | { height?: number } | undefined;
  const image = await importImageTower(visionPath, typeof crop === 'object' ? crop.height : crop);
  const textConfig = config.text_config as { max_position_embeddings?: number } | undefined;
  const contextLength = textConfig?.max_position_embeddings ?? tokenizerOf(files, folder).contextLength ?? 77;
  const text = await importTextTower(textPath, contextLength);
  if (image.dim !== text.dim) {
    throw new CidError(
      'MODEL_INVALID',
      `${folder} is no CLIP: image embeddings are ${image.dim} wide and text embeddings ${text.dim}`,
    );
  }
  return {
    config: undefined,
    image: image.graph,
    text: text.graph,
    exportedText: text.exported,
    parameters: [...image.parameters, ...text.parameters],
    embedDim: image.dim,
    imageSize: image.imageSize,
    contextLength,
    normalisation: clipNormalisation,
    tokenizerFiles: files,
    identity: 'imported',
  };
}

/** Initializers of a model by the names that its parameters had in training. */
export async function readWeights(path: string, values: Map<string, Float32Array>): Promise<void> {
  const model = await readModel(path);
  for (const initializer of model.graph!.initializer) {
    const { type, data } = decodeTensor(initializer);
    if (type === 'float32') values.set(initializer.name, data as Float32Array);
    if (type === 'float16') {
      values.set(initializer.name.replace(/\.float16$/, ''), halfToFloat(data as Uint16Array));
    }
  }
}
