import { stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { readModelJson } from '../encoder/tokenizer.ts';
import { expectInteger, expectObject, expectOneOf } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { hashFile, hashValue, type Json } from '../run/hash.ts';
import { type StudentName, studentConfig, studentNames, type VisionConfig } from './config.ts';
import { importImageTower } from './imported.ts';
import { readWeights } from './load.ts';
import { buildBackbone } from './towers.ts';
import { clipNormalisation, type Normalisation } from './views.ts';

/** An image encoder as training takes it: `pixel_values` [batch, 3, S, S] → `pooler_output` [batch, width]. */
export interface Backbone {
  /** Sizes of one that this package built; absent for imported ones. */
  readonly config: VisionConfig | undefined;
  readonly graph: Graph;
  readonly parameters: readonly Parameter[];
  readonly width: number;
  readonly imageSize: number;
  readonly normalisation: Normalisation;
  /** Hash of all of this, starting values included. */
  readonly identity: string;
}

/** Numbers of an image encoder; what is left out comes from `base`. */
export interface BackboneOptions extends Partial<VisionConfig> {
  /** Of whose image tower the sizes are. Defaults to 'mini-64'. */
  base?: StudentName;
}

/** Which image encoder to train. */
export interface BackboneChoice {
  /**
   * An architecture of our own with new weights: the image tower of a student by its name ('mini-64', 'vit-b-32', …), or a name
   * with some numbers changed. Defaults to 'mini-64'. Not used when `init` is given.
   */
  backbone?: StudentName | BackboneOptions;
  /** An image encoder to start from, instead: a model folder, or an ONNX file of one image input and its features. */
  init?: string;
  /**
   * Output of `init` that holds the features, [batch, width]. Defaults to 'pooler_output', then 'image_embeds', then the only
   * output there is.
   */
  features?: string;
}

/** Names of {@link BackboneChoice}. */
export const BACKBONE_CHOICE = Object.keys({
  backbone: true,
  init: true,
  features: true,
} satisfies Record<keyof BackboneChoice, true>);

/** Key under which `config.json` of an image model's folder holds what this package knows of it. */
export const IMAGE_KEY = 'clip_cid_image';
const VISION_FILE = 'onnx/vision_model.onnx';

/** The image encoder that options name. Fails with MODEL_INVALID or MODEL_UNSUPPORTED, naming the file. */
export async function chooseBackbone(choice: BackboneChoice, seed: number): Promise<Backbone> {
  if (choice.init !== undefined) return openBackbone(choice.init, choice.features);
  const config = visionConfig(choice.backbone);
  return {
    config,
    ...buildBackbone(config, seed),
    width: config.width,
    imageSize: config.imageSize,
    normalisation: clipNormalisation,
    identity: hashValue({ vision: config as unknown as Json, seed }),
  };
}

/** Hash of what a choice names, for a stage's record: the bytes of `init`, or the sizes. */
export async function backboneInputs({ init }: BackboneChoice): Promise<Record<string, string>> {
  if (init === undefined) return {};
  return { init: await hashFile(isOnnx(init) ? init : join(init, VISION_FILE)) };
}

/** Sizes of an image tower by name or numbers. Fails with a RangeError on sizes that do not fit. */
export function visionConfig(backbone: StudentName | BackboneOptions = 'mini-64'): VisionConfig {
  const options = typeof backbone === 'string' ? { base: backbone } : backbone;
  const { base = 'mini-64', ...vision } = options;
  expectOneOf('backbone.base', base, studentNames);
  expectObject('backbone', vision, ['base', ...Object.keys(studentConfig(base).vision)]);
  return studentConfig({ base, vision }).vision;
}

/** An image encoder from a model folder, of which only the image side is used, or from an ONNX file. */
async function openBackbone(path: string, features: string | undefined): Promise<Backbone> {
  const status = await stat(path).catch(() => undefined);
  if (!status) throw new CidError('MODEL_INVALID', `There is no model ${path}`);
  if (status.isDirectory()) return openFolder(path, features);
  return imported(path, features, undefined, clipNormalisation);
}

const isOnnx = (path: string) => extname(path).toLowerCase() === '.onnx';

async function openFolder(folder: string, features: string | undefined): Promise<Backbone> {
  const [config, preprocessor] = await Promise.all(
    ['config.json', 'preprocessor_config.json'].map((name) => readModelJson(join(folder, name))),
  );
  const { image_mean: mean, image_std: std, crop_size: crop } = preprocessor!;
  const normalisation =
    Array.isArray(mean) && Array.isArray(std)
      ? { mean: mean as number[], std: std as number[] }
      : clipNormalisation;
  const file = join(folder, VISION_FILE);
  const vision = (config![IMAGE_KEY] as { vision?: object } | undefined)?.vision;
  if (vision && features === undefined) return rebuild(file, vision, normalisation);
  const size = typeof crop === 'object' ? (crop as { height?: number } | null)?.height : crop;
  return imported(file, features, typeof size === 'number' ? size : undefined, normalisation);
}

/** One of our own is written anew from its sizes, so that weight decay acts on what it acted on. */
async function rebuild(file: string, sizes: object, normalisation: Normalisation): Promise<Backbone> {
  const config = visionConfig(sizes as BackboneOptions);
  const built = buildBackbone(config, 0);
  const values = new Map<string, Float32Array>();
  await readWeights(file, values);
  const parameters = built.parameters.map((parameter): Parameter => {
    const value = values.get(parameter.name);
    if (value?.length === parameter.value.length) return { ...parameter, value };
    throw new CidError(
      'MODEL_INVALID',
      `${file} lacks the weights '${parameter.name}' of its own architecture`,
    );
  });
  return {
    config,
    graph: built.graph,
    parameters,
    width: config.width,
    imageSize: config.imageSize,
    normalisation,
    identity: hashValue({ weights: await hashFile(file), normalisation: normalisation as unknown as Json }),
  };
}

async function imported(
  file: string,
  features: string | undefined,
  imageSize: number | undefined,
  normalisation: Normalisation,
): Promise<Backbone> {
  const names = features === undefined ? ['pooler_output', 'image_embeds'] : [features];
  const output = { names, as: 'pooler_output', exact: features !== undefined };
  const tower = await importImageTower(file, imageSize, output);
  return {
    config: undefined,
    graph: tower.graph,
    parameters: tower.parameters,
    width: expectInteger('width', tower.dim, 1),
    imageSize: tower.imageSize,
    normalisation,
    identity: hashValue({
      weights: await hashFile(file),
      features: features ?? null,
      imageSize: tower.imageSize,
      normalisation: normalisation as unknown as Json,
    }),
  };
}
