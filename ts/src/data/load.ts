import type { NativeImage, NativeImageFile } from '../native/addon.ts';
import { expectInteger, expectString } from '../native/check.ts';
import { type KernelOptions, runNative } from '../native/context.ts';
import { CidError } from '../native/errors.ts';
import { loadAddon } from '../native/loader.ts';
import type { Dataset } from './dataset.ts';
import {
  BACKGROUND,
  type DecodeOptions,
  decodeImage,
  hasLibvips,
  type RgbImage,
  resizeImage,
} from './image.ts';

export interface LoadOptions extends DecodeOptions, Pick<KernelOptions, 'threads' | 'signal'> {
  /** Pixels to which the shorter side is shrunk where it is longer, with a triangle filter. Defaults to never. */
  shortest?: number;
}

/** A decoded image whose pixels may be held by the native core, out of reach but for what works there. */
export type LoadedImage = NativeImage;

/**
 * Images of a data set, many at once on all threads, each read, decoded and shrunk; in place of one that cannot be, why. Same pixels as
 * {@link decodeImage} and {@link resizeImage} give.
 *
 * Ordinary JPEG, PNG and WebP images take the native core's path, which is quicker than sharp's and leaves this thread alone; the others
 * go through sharp one by one. Images of a tar are read in one go where they lie together in it.
 *
 * Fails with DISPOSED when the data set is closed, and with ABORTED.
 */
export async function loadImages(
  dataset: Dataset,
  indices: ArrayLike<number>,
  options: LoadOptions = {},
): Promise<(RgbImage | CidError)[]> {
  return (await loadFrom(dataset, indices, options, false)) as (RgbImage | CidError)[];
}

/**
 * {@link loadImages} for work that goes on in the native core, which holds the pixels: so they cost the garbage collector nothing. Their memory is
 * freed by {@link releaseImages}.
 */
export function holdImages(
  dataset: Dataset,
  indices: ArrayLike<number>,
  options: LoadOptions = {},
): Promise<(LoadedImage | CidError)[]> {
  return loadFrom(dataset, indices, options, true);
}

/** Frees the pixels of images that the native core holds, at once or when the work on them ends; they cannot be used again. */
export function releaseImages(images: readonly LoadedImage[]): void {
  loadAddon().releaseImages(images);
}

function loadFrom(
  dataset: Dataset,
  indices: ArrayLike<number>,
  options: LoadOptions,
  keep: boolean,
): Promise<(LoadedImage | CidError)[]> {
  const wanted = Array.from(indices);
  const files = wanted.map((index) => dataset.part(index));
  return load(files, async (i) => dataset.read(wanted[i]!), options, keep);
}

/** {@link loadImages} from encoded bytes. */
export async function decodeImages(
  files: readonly Uint8Array[],
  options: LoadOptions = {},
): Promise<(RgbImage | CidError)[]> {
  return (await load(files, async (i) => files[i]!, options, false)) as (RgbImage | CidError)[];
}

async function load(
  files: readonly NativeImageFile[],
  read: (i: number) => Promise<Uint8Array>,
  options: LoadOptions,
  keep: boolean,
): Promise<(LoadedImage | CidError)[]> {
  const background = expectString('background', options.background ?? BACKGROUND);
  const shortest = expectInteger('shortest', options.shortest ?? 0, 0, 32_768);
  const decoded = await nativeImages(files, background, shortest, keep, options);
  return Promise.all(
    files.map(async (_, i) => {
      const image = decoded[i];
      if (image) return image;
      try {
        return await shrink(await decodeImage(await read(i), { background }), shortest);
      } catch (error) {
        return brokenImage(error);
      }
    }),
  );
}

async function nativeImages(
  files: readonly NativeImageFile[],
  background: string,
  shortest: number,
  keep: boolean,
  { threads, signal }: LoadOptions,
): Promise<(LoadedImage | undefined)[]> {
  const colour = colourOf(background);
  if (colour === undefined || !hasLibvips()) return [];
  return runNative(
    { device: 'cpu', ...(threads !== undefined && { threads }), ...(signal && { signal }) },
    0,
    (addon, context) => addon.decodeImages(context, files, colour, shortest, keep),
  );
}

/** The bytes of a colour `#rrggbb`; colours of any other form are left to sharp. */
export function colourOf(background: string): Uint8Array | undefined {
  return /^#[0-9a-f]{6}$/i.test(background)
    ? Uint8Array.from(Buffer.from(background.slice(1), 'hex'))
    : undefined;
}

async function shrink(image: RgbImage, shortest: number): Promise<RgbImage> {
  const factor = shortest / Math.min(image.width, image.height);
  if (shortest === 0 || factor >= 1) return image;
  return resizeImage(image, Math.round(image.width * factor), Math.round(image.height * factor), 'linear');
}

/** Why an image is left out. Anything else, such as a data set that was closed meanwhile, is not the image's fault and thrown again. */
export function brokenImage(error: unknown): CidError {
  const codes = ['FILE_FORMAT', 'FILE_NOT_FOUND', 'INVALID_DATA'];
  if (error instanceof CidError && codes.includes(error.code)) return error;
  throw error;
}
