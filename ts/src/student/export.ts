import { join } from 'node:path';
import { writeModel } from '../onnx/model.ts';
import { exportModel } from '../program/export.ts';
import type { Graph } from '../program/graph.ts';
import { removeTemporaries, writeJson } from '../run/files.ts';
import type { StudentConfig } from './config.ts';
import type { Normalisation } from './views.ts';

/** A student as it is written to a model folder. */
export interface ExportedStudent {
  readonly image: Graph;
  readonly text: Graph;
  /** Values of both graphs' parameters, by name. */
  readonly values: ReadonlyMap<string, Float32Array>;
  /** Sizes of towers that this package built; for imported ones only what follows is known. */
  readonly config: StudentConfig | undefined;
  readonly embedDim: number;
  readonly imageSize: number;
  readonly contextLength: number;
  readonly normalisation: Normalisation;
  /** Contents of the two tokenizer files. */
  readonly tokenizer: { readonly json: object; readonly config: object };
  /** Natural logarithm of the logit scale. */
  readonly logScale: number;
  /** Ids of the start, end and padding tokens, and their number in all. */
  readonly tokens: {
    readonly start: number;
    readonly end: number;
    readonly pad: number;
    readonly count: number;
  };
}

/**
 * Writes a model folder with the files and names of the Hugging Face hub's CLIP exports. Each file appears whole or not at
 * all, `config.json` the last. Images are resized bilinearly, as in training.
 */
export async function exportStudent(
  folder: string,
  student: ExportedStudent,
  dtype: 'float32' | 'float16' = 'float32',
): Promise<void> {
  const options = { float16: dtype === 'float16' };
  // Everything in the folder counts as the model, so what a killed export left must not stay.
  for (const part of [folder, join(folder, 'onnx')]) await removeTemporaries(part);
  const models = [
    ['vision_model.onnx', student.image],
    ['text_model.onnx', student.text],
  ] as const;
  for (const [name, graph] of models) {
    await writeModel(join(folder, 'onnx', name), exportModel(graph, student.values, options));
  }
  await writeJson(join(folder, 'tokenizer.json'), student.tokenizer.json);
  await writeJson(join(folder, 'tokenizer_config.json'), student.tokenizer.config);
  await writeJson(join(folder, 'preprocessor_config.json'), preprocessorConfig(student));
  await writeJson(join(folder, 'config.json'), modelConfig(student));
}

/** `preprocessor_config.json` of a model that sees the central square of an image, as training does without augmentation. */
export function preprocessorConfig({
  imageSize,
  normalisation,
}: Pick<ExportedStudent, 'imageSize' | 'normalisation'>): object {
  return {
    image_processor_type: 'CLIPImageProcessor',
    feature_extractor_type: 'CLIPFeatureExtractor',
    processor_class: 'CLIPProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: { shortest_edge: imageSize },
    // Bilinear, by PIL's number.
    resample: 2,
    do_center_crop: true,
    crop_size: { height: imageSize, width: imageSize },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: normalisation.mean,
    image_std: normalisation.std,
  };
}

/** Key under which `config.json` holds a {@link StudentConfig}, so that training can start from an exported student. */
export const CONFIG_KEY = 'clip_cid';

function modelConfig(student: ExportedStudent): object {
  const { config, embedDim, imageSize, contextLength, tokens } = student;
  return {
    architectures: ['CLIPModel'],
    model_type: 'clip',
    projection_dim: embedDim,
    logit_scale_init_value: student.logScale,
    text_config: {
      model_type: 'clip_text_model',
      vocab_size: tokens.count,
      max_position_embeddings: contextLength,
      projection_dim: embedDim,
      bos_token_id: tokens.start,
      eos_token_id: tokens.end,
      pad_token_id: tokens.pad,
      ...(config && sizesOf(config.text)),
    },
    vision_config: {
      model_type: 'clip_vision_model',
      image_size: imageSize,
      projection_dim: embedDim,
      ...(config && { patch_size: config.vision.patchSize, ...sizesOf(config.vision) }),
    },
    ...(config && { [CONFIG_KEY]: config }),
  };
}

/** Sizes of a tower by the names that configurations of the hub have for them. */
export function sizesOf(tower: StudentConfig['vision'] | StudentConfig['text']): object {
  return {
    hidden_size: tower.width,
    intermediate_size: Math.round(tower.width * tower.mlpRatio),
    num_hidden_layers: tower.layers,
    num_attention_heads: tower.heads,
    hidden_act: 'quick_gelu',
    layer_norm_eps: 1e-5,
  };
}
