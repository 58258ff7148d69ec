import { join } from 'node:path';
import { writeModel } from '../onnx/model.ts';
import { exportModel } from '../program/export.ts';
import type { Graph } from '../program/graph.ts';
import { removeTemporaries, writeJson } from '../run/files.ts';
import type { Json } from '../run/hash.ts';
import { type Backbone, IMAGE_KEY } from './backbone.ts';
import { preprocessorConfig, sizesOf } from './export.ts';

/** A model of images alone as it is written to a model folder. */
export interface ExportedImageModel {
  /** `pixel_values` → whatever the model gives, `pooler_output` among it. */
  readonly graph: Graph;
  readonly values: ReadonlyMap<string, Float32Array>;
  readonly backbone: Backbone;
  /** Width of `image_embeds`, where the model has it. */
  readonly embedDim?: number;
  /** What else there is to know of the model, under the package's own key of `config.json`. */
  readonly facts?: Readonly<Record<string, Json>>;
}

/**
 * Writes a model folder without a text side: `onnx/vision_model.onnx`, `preprocessor_config.json`, `config.json`. Each file appears
 * whole or not at all, `config.json` the last.
 */
export async function exportImageModel(
  folder: string,
  model: ExportedImageModel,
  dtype: 'float32' | 'float16' = 'float32',
): Promise<void> {
  const { backbone, graph, values, embedDim, facts } = model;
  const { config, imageSize } = backbone;
  for (const part of [folder, join(folder, 'onnx')]) await removeTemporaries(part);
  await writeModel(
    join(folder, 'onnx', 'vision_model.onnx'),
    exportModel(graph, values, { float16: dtype === 'float16' }),
  );
  await writeJson(join(folder, 'preprocessor_config.json'), preprocessorConfig(backbone));
  await writeJson(join(folder, 'config.json'), {
    architectures: [embedDim === undefined ? 'CLIPVisionModel' : 'CLIPVisionModelWithProjection'],
    model_type: 'clip_vision_model',
    image_size: imageSize,
    ...(embedDim !== undefined && { projection_dim: embedDim }),
    ...(config && { patch_size: config.patchSize, ...sizesOf(config) }),
    [IMAGE_KEY]: { ...(config && { vision: config }), features: backbone.width, ...facts },
  });
}
