import { join } from 'node:path';
import { readModelJson } from '../encoder/tokenizer.ts';
import { CidError } from '../native/errors.ts';
import { readModel } from '../onnx/model.ts';
import { decodeTensor } from '../onnx/tensor.ts';
import type { Parameter } from '../program/executor.ts';
import { fromFloat16 } from '../program/float16.ts';
import { hashFile, hashValue } from '../run/hash.ts';
import { studentConfig } from './config.ts';
import { CONFIG_KEY } from './export.ts';
import { newStudent, type StudentModel } from './model.ts';

const MODELS = ['vision_model.onnx', 'text_model.onnx'] as const;

/**
 * A student that this package exported, to train on from. Fails with MODEL_INVALID, naming the file, when the folder does not
 * hold one.
 */
export async function loadStudent(folder: string): Promise<StudentModel> {
  const [config, json, tokenizerConfig, preprocessor] = await Promise.all(
    ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'].map((name) =>
      readModelJson(join(folder, name)),
    ),
  );
  const sizes = config![CONFIG_KEY];
  if (typeof sizes !== 'object' || sizes === null) {
    throw new CidError(
      'MODEL_INVALID',
      `${join(folder, 'config.json')} is not that of a student of this package`,
    );
  }
  const model = newStudent(studentConfig(sizes), 0, { json: json!, config: tokenizerConfig! });
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
  const logScale = config!.logit_scale_init_value;
  const { image_mean: mean, image_std: std } = preprocessor!;
  return {
    ...model,
    parameters,
    ...(Array.isArray(mean) &&
      Array.isArray(std) && { normalisation: { mean: mean as number[], std: std as number[] } }),
    ...(typeof logScale === 'number' && { logScale }),
    identity: hashValue({
      model: model.identity,
      weights: await Promise.all(MODELS.map((name) => hashFile(join(folder, 'onnx', name)))),
    }),
  };
}

/** Initializers of a model by the names that its parameters had in training. */
async function readWeights(path: string, values: Map<string, Float32Array>): Promise<void> {
  const model = await readModel(path);
  for (const initializer of model.graph!.initializer) {
    const { type, data } = decodeTensor(initializer);
    if (type === 'float32') values.set(initializer.name, data as Float32Array);
    if (type === 'float16') {
      values.set(initializer.name.replace(/\.float16$/, ''), fromFloat16(data as Uint16Array));
    }
  }
}
