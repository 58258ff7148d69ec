import sharp from 'sharp';
import { expectString } from '../native/check.ts';
import { runNative } from '../native/context.ts';
import { threads } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { loadAddon } from '../native/loader.ts';

/** Decoded pixels, RGB interleaved, 8 bits a channel. */
export interface RgbImage {
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
}

export interface DecodeOptions {
  /** CSS colour that transparent images are laid on. Defaults to '#ffffff'. */
  background?: string;
}

/** Background of {@link DecodeOptions} where none is given. */
export const BACKGROUND = '#ffffff';

/** Kernels of {@link resizeImage}, by sharp's names. */
export type ResizeKernel = 'nearest' | 'linear' | 'cubic' | 'lanczos3';

/**
 * Decodes JPEG, PNG, WebP, GIF (its first frame), AVIF or TIFF: turned as its EXIF orientation says, laid on the background where
 * it is transparent, and brought to RGB with 8 bits from grey, palette, CMYK or 16 bits. Embedded colour profiles are
 * not applied, as in the loaders that CLIP models were trained with.
 *
 * Fails with FILE_FORMAT when the bytes are not an image or are damaged or cut short.
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions = {}): Promise<RgbImage> {
  const background = options.background ?? BACKGROUND;
  expectString('background', background);
  for (let attempt = 1; ; attempt++) {
    try {
      return await withImageThread(() => decode(bytes, background));
    } catch (error) {
      const message = (error as Error).message.split('\n')[0];
      // libvips keeps one message for all threads, which the end of another image's work wipes out.
      if (message === 'Unknown error' && attempt < ATTEMPTS) continue;
      const reason = bytes.length === 0 ? 'the file is empty' : message;
      throw new CidError('FILE_FORMAT', `The image cannot be decoded: ${reason}`, { cause: error });
    }
  }
}

/** Times that an image is decoded to learn what is wrong with it. */
const ATTEMPTS = 20;

async function decode(bytes: Uint8Array, background: string): Promise<RgbImage> {
  const { data, info } = await sharp(bytes, { failOn: 'error', ignoreIcc: true, autoOrient: true })
    .flatten({ background })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height };
}

/**
 * Stretches an image to a size. A smaller one is averaged with the kernel's support widened (antialiased), by libvips: within a
 * few grey levels of PIL's. One that is enlarged along a side, or nearest, equals PIL's: libvips would shift it by half a pixel.
 */
export async function resizeImage(
  image: RgbImage,
  width: number,
  height: number,
  kernel: ResizeKernel,
): Promise<RgbImage> {
  if (image.width === width && image.height === height) return image;
  hasLibvips();
  const [resized] = await runNative({ device: 'cpu' }, 0, (addon, context) =>
    addon.resizeImages(context, [image], width, height, kernel),
  );
  return resized ?? withImageThread(() => reduce(image, width, height, kernel));
}

async function reduce(
  image: RgbImage,
  width: number,
  height: number,
  kernel: ResizeKernel,
): Promise<RgbImage> {
  const raw = { width: image.width, height: image.height, channels: 3 as const };
  const data = await sharp(image.data, { raw })
    .resize(width, height, { fit: 'fill', kernel })
    .raw()
    .toBuffer();
  return { data, width, height };
}

let libvips: boolean | undefined;

/** Whether the native core can use the libvips that sharp has loaded; without it everything goes through sharp. */
export function hasLibvips(): boolean {
  const { vips } = sharp.versions;
  const name = process.platform === 'darwin' ? `libvips-cpp.${vips}.dylib` : `libvips-cpp.so.${vips}`;
  libvips ??= loadAddon().useLibvips(name);
  return libvips;
}

let running = 0;
const waiting: (() => void)[] = [];

/**
 * At most as many images at once as the process has threads to use; they run in libuv's pool, whose own size (the environment's
 * UV_THREADPOOL_SIZE, 4 by default) bounds it too. Every image uses one thread: many small images at once are faster than
 * several threads for each.
 */
async function withImageThread<T>(work: () => Promise<T>): Promise<T> {
  sharp.concurrency(1);
  await new Promise<void>((start) => {
    waiting.push(start);
    startWaiting();
  });
  try {
    return await work();
  } finally {
    running--;
    startWaiting();
  }
}

function startWaiting(): void {
  while (running < threads() && waiting.length > 0) {
    running++;
    waiting.shift()!();
  }
}
