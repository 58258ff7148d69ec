import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import {
  BACKGROUND,
  decodeImage,
  hasLibvips,
  type ResizeKernel,
  type RgbImage,
  resizeImage,
} from '../data/image.ts';
import { brokenImage, colourOf } from '../data/load.ts';
import type { NativeImage, NativeImageFile } from '../native/addon.ts';
import { type KernelOptions, runNative } from '../native/context.ts';
import { CidError } from '../native/errors.ts';
import { readModelJson } from './tokenizer.ts';

/** What a model does to an image before it sees it; a `preprocessor_config.json` with CLIP's values where it is silent. */
export interface Preprocessing {
  /** Shorter side, or both sides, in pixels after resizing; undefined for none. */
  readonly resize:
    | { readonly shortest: number }
    | { readonly height: number; readonly width: number }
    | undefined;
  readonly kernel: ResizeKernel;
  /** Square cut out of the middle, in pixels; undefined for none. */
  readonly crop: number | undefined;
  /** Factor on a channel's 0 to 255. */
  readonly rescale: number;
  /** Subtracted from and divided by, per channel, after rescaling. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** Side of the square that results, in pixels. */
  readonly imageSize: number;
}

const CLIP_SIZE = 224;
const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;
/** Resampling filters by PIL's numbers. */
const KERNELS: readonly (ResizeKernel | undefined)[] = ['nearest', 'lanczos3', 'linear', 'cubic'];

/** Reads a model folder's `preprocessor_config.json`. Fails with MODEL_INVALID, or MODEL_UNSUPPORTED for what is not built. */
export async function readPreprocessing(folder: string): Promise<Preprocessing> {
  const path = join(folder, 'preprocessor_config.json');
  return parsePreprocessing(await readModelJson(path), path);
}

export function parsePreprocessing(config: Readonly<Record<string, unknown>>, source: string): Preprocessing {
  const invalid = (what: string, field: string) =>
    new CidError(
      'MODEL_INVALID',
      `Expected ${what} for ${field} in ${source} but received ${JSON.stringify(config[field])}`,
    );
  const size = (value: unknown, field: string): number => {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1)
      throw invalid('a size in pixels', field);
    return value;
  };
  const triple = (field: string, usual: readonly [number, number, number]): [number, number, number] => {
    const value = config[field] ?? usual;
    const fits = Array.isArray(value) && value.length === 3 && value.every((v) => Number.isFinite(v));
    if (!fits) throw invalid('three numbers', field);
    return value as [number, number, number];
  };
  const does = (field: string) => config[field] !== false;

  const resize = does('do_resize')
    ? resizeOf(config.size ?? CLIP_SIZE, (value) => size(value, 'size'))
    : undefined;
  const cropSize = config.crop_size ?? CLIP_SIZE;
  const crop = does('do_center_crop') ? squareOf(cropSize, (value) => size(value, 'crop_size')) : undefined;
  const number = config.resample ?? 3;
  const kernel = typeof number === 'number' ? KERNELS[number] : undefined;
  if (kernel === undefined) {
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `${source}: resampling filter ${JSON.stringify(number)} is not supported`,
    );
  }
  const factor = config.rescale_factor ?? 1 / 255;
  if (typeof factor !== 'number' || !(factor > 0)) throw invalid('a number over 0', 'rescale_factor');
  const normalize = does('do_normalize');
  const std = normalize ? triple('image_std', CLIP_STD) : ([1, 1, 1] as const);
  if (std.some((value) => value === 0)) throw invalid('three numbers that are not 0', 'image_std');

  const resized = resize && ('shortest' in resize ? resize.shortest : Math.min(resize.height, resize.width));
  if (crop !== undefined && resized !== undefined && crop > resized) {
    throw invalid(`at most the size after resizing, ${resized},`, 'crop_size');
  }
  const imageSize =
    crop ?? (resize && 'height' in resize && resize.height === resize.width ? resize.height : undefined);
  if (imageSize === undefined) throw invalid('a centre crop, or a square size,', 'size');
  return {
    resize,
    kernel,
    crop,
    rescale: does('do_rescale') ? factor : 1,
    mean: normalize ? triple('image_mean', CLIP_MEAN) : [0, 0, 0],
    std,
    imageSize,
  };
}

/** Older files hold a number where newer ones hold an object. */
function resizeOf(value: unknown, size: (value: unknown) => number): NonNullable<Preprocessing['resize']> {
  if (typeof value !== 'object' || value === null) return { shortest: size(value) };
  const { shortest_edge: shortest, height, width } = value as Record<string, unknown>;
  return shortest === undefined ? { height: size(height), width: size(width) } : { shortest: size(shortest) };
}

function squareOf(value: unknown, size: (value: unknown) => number): number {
  if (typeof value !== 'object' || value === null) return size(value);
  const { height, width } = value as Record<string, unknown>;
  return height === width ? size(height) : size(undefined);
}

/** How the native core works on images: on the process's threads, until the signal aborts. */
export type PreprocessOptions = Pick<KernelOptions, 'threads' | 'signal'>;

/**
 * Images as a model's `pixel_values`, [n, 3, imageSize, imageSize]: resized, cut out of the middle, rescaled, normalised. In the
 * order and with the roundings of the usual Python processors; see {@link resizeImage} for how close it is.
 *
 * Fails with INVALID_DATA for an image that is smaller than the model's.
 */
export async function preprocessImages(
  images: readonly RgbImage[],
  preprocessing: Preprocessing,
  options: PreprocessOptions = {},
): Promise<Float32Array> {
  const { imageSize, kernel } = preprocessing;
  const area = 3 * imageSize * imageSize;
  const pixels = new Float32Array(images.length * area);
  const done = await fitSources(images, preprocessing, [255, 255, 255], pixels, options);
  for (const [i, image] of images.entries()) {
    if (done[i] === 1) continue;
    const [width, height] = resizedSize(image, preprocessing);
    if (width < imageSize || height < imageSize) {
      throw new CidError(
        'INVALID_DATA',
        `An image of ${width}×${height} is smaller than the model's ${imageSize} pixels`,
      );
    }
    // Where the native core cannot reduce, sharp does, and nothing is left to resize.
    const resized = await resizeImage(image, width, height, kernel);
    const part = pixels.subarray(i * area, (i + 1) * area);
    await fitSources([resized], { ...preprocessing, resize: undefined }, [255, 255, 255], part, options);
  }
  return pixels;
}

/** Images of a data set as a model's input. */
export interface PreprocessedImages {
  /** [sound, 3, imageSize, imageSize], one after the other. */
  readonly pixels: Float32Array;
  /** Their indices in the data set, in the order asked for. */
  readonly sound: readonly number[];
  /** The others, and why. */
  readonly broken: readonly { readonly index: number; readonly error: CidError }[];
}

/**
 * {@link loadImages} and {@link preprocessImages} in one, so that no more decoded images are in memory than there are threads.
 *
 * @param background CSS colour that transparent images are laid on. Defaults to '#ffffff'.
 */
export async function preprocessDataset(
  dataset: Dataset,
  indices: ArrayLike<number>,
  preprocessing: Preprocessing,
  { background = BACKGROUND, ...options }: PreprocessOptions & { background?: string } = {},
): Promise<PreprocessedImages> {
  const wanted = Array.from(indices);
  const area = 3 * preprocessing.imageSize ** 2;
  const pixels = new Float32Array(wanted.length * area);
  const colour = colourOf(background);
  const parts = wanted.map((index) => dataset.part(index));
  const done =
    colour && hasLibvips() ? await fitSources(parts, preprocessing, colour, pixels, options) : undefined;
  const errors = await Promise.all(
    wanted.map(async (index, i) => {
      if (done?.[i] === 1) return undefined;
      try {
        const image = await decodeImage(await dataset.read(index), { background });
        pixels.set(await preprocessImages([image], preprocessing, options), i * area);
        return undefined;
      } catch (error) {
        return brokenImage(error);
      }
    }),
  );
  const sound: number[] = [];
  const broken: { index: number; error: CidError }[] = [];
  for (const [i, error] of errors.entries()) {
    if (error) {
      broken.push({ index: wanted[i]!, error });
    } else {
      if (broken.length > 0) pixels.copyWithin(sound.length * area, i * area, (i + 1) * area);
      sound.push(wanted[i]!);
    }
  }
  return { pixels: pixels.subarray(0, sound.length * area), sound, broken };
}

/** 1 for each source that is done by the native core. */
function fitSources(
  sources: readonly (NativeImageFile | NativeImage)[],
  { resize, kernel, imageSize, rescale, mean, std }: Preprocessing,
  background: ArrayLike<number>,
  out: Float32Array,
  options: PreprocessOptions,
): Promise<Uint8Array> {
  hasLibvips();
  // 256 values a channel: a table instead of three operations a pixel.
  const table = new Float32Array(3 * 256);
  for (const [channel, m] of mean.entries()) {
    for (let value = 0; value < 256; value++)
      table[256 * channel + value] = (value * rescale - m) / std[channel]!;
  }
  const target = { shortest: 0, width: 0, height: 0, ...resize };
  return runNative({ ...options, device: 'cpu' }, 0, (addon, context) =>
    addon.fitImages(
      context,
      sources,
      Uint8Array.from(background),
      { ...target, kernel, size: imageSize, table },
      out,
    ),
  );
}

function resizedSize({ width, height }: RgbImage, { resize }: Preprocessing): [number, number] {
  if (!resize) return [width, height];
  if (!('shortest' in resize)) return [resize.width, resize.height];
  const { shortest } = resize;
  const short = Math.min(width, height);
  const scaled = (side: number) => (side === short ? shortest : Math.floor((shortest * side) / short));
  return [scaled(width), scaled(height)];
}
