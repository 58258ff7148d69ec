import { join } from 'node:path';
import { type ResizeKernel, type RgbImage, resizeImage } from '../data/image.ts';
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

/**
 * Images as a model's `pixel_values`, [n, 3, imageSize, imageSize]: resized, cut out of the middle, rescaled, normalised. In the
 * order and with the roundings of the usual Python processors; see {@link resizeImage} for how close it is.
 */
export async function preprocessImages(
  images: readonly RgbImage[],
  preprocessing: Preprocessing,
): Promise<Float32Array> {
  const { imageSize, mean, std, rescale } = preprocessing;
  const plane = imageSize * imageSize;
  const pixels = new Float32Array(images.length * 3 * plane);
  // 256 values a channel: a table instead of three operations a pixel.
  const tables = mean.map((m, c) =>
    Float32Array.from({ length: 256 }, (_, value) => (value * rescale - m) / std[c]),
  );
  await Promise.all(
    images.map(async (image, index) => {
      const { data, width, left, top } = await fitImage(image, preprocessing);
      for (let c = 0; c < 3; c++) {
        const table = tables[c];
        let to = (index * 3 + c) * plane;
        for (let y = 0; y < imageSize; y++) {
          let from = ((top + y) * width + left) * 3 + c;
          for (let x = 0; x < imageSize; x++, from += 3) pixels[to++] = table[data[from]];
        }
      }
    }),
  );
  return pixels;
}

/** The resized image, and where in it the crop starts. */
async function fitImage(
  image: RgbImage,
  { resize, kernel, imageSize }: Preprocessing,
): Promise<RgbImage & { left: number; top: number }> {
  let { width, height } = image;
  if (resize && 'shortest' in resize) {
    const { shortest } = resize;
    const short = Math.min(width, height);
    [width, height] = [width, height].map((side) =>
      side === short ? shortest : Math.floor((shortest * side) / short),
    ) as [number, number];
  } else if (resize) {
    ({ width, height } = resize);
  }
  if (width < imageSize || height < imageSize) {
    throw new CidError(
      'INVALID_DATA',
      `An image of ${width}×${height} is smaller than the model's ${imageSize} pixels`,
    );
  }
  const resized = await resizeImage(image, width, height, kernel);
  const [left, top] = [width - imageSize, height - imageSize].map((rest) => Math.floor(rest / 2));
  return { ...resized, left, top };
}
