import type { NativeImageFile } from '../native/addon.ts';
import { expectInteger, expectString } from '../native/check.ts';
import { type KernelOptions, runNative } from '../native/context.ts';
import { CidError } from '../native/errors.ts';
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
  const wanted = Array.from(indices);
  const files = wanted.map((index) => dataset.part(index));
  return load(files, async (i) => dataset.read(wanted[i]!), options);
}

/** {@link loadImages} from encoded bytes. */
export async function decodeImages(
  files: readonly Uint8Array[],
  options: LoadOptions = {},
): Promise<(RgbImage | CidError)[]> {
  return load(files, async (i) => files[i]!, options);
}

async function load(
  files: readonly NativeImageFile[],
  read: (i: number) => Promise<Uint8Array>,
  options: LoadOptions,
): Promise<(RgbImage | CidError)[]> {
  const background = expectString('background', options.background ?? BACKGROUND);
  const shortest = expectInteger('shortest', options.shortest ?? 0, 0, 32_768);
  const decoded = await nativeImages(files, background, shortest, options);
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
  { threads, signal }: LoadOptions,
): Promise<(RgbImage | undefined)[]> {
  const colour = colourOf(background);
  if (colour === undefined || !hasLibvips()) return [];
  return runNative(
    { device: 'cpu', ...(threads !== undefined && { threads }), ...(signal && { signal }) },
    0,
    (addon, context) => addon.decodeImages(context, files, colour, shortest),
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
