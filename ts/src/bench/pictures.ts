import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { Random, streams } from '../student/random.ts';

/** Images that the loader is measured on. */
export const PICTURES = {
  /** The usual size of ImageNet, some 60 kB. */
  jpeg: { width: 500, height: 375 },
  /** A photograph as web pages show it, some 250 kB. */
  photo: { width: 1024, height: 768 },
  /** A drawing with transparency, as the emoji of the example. */
  png: { width: 64, height: 64 },
} as const;

export type PictureKind = keyof typeof PICTURES;
export const PICTURE_KINDS = Object.keys(PICTURES) as PictureKind[];

/** Pictures that differ from each other; more would only take longer to make. */
const DIFFERENT = 16;

/**
 * Encoded images as photographs are to a decoder: noise of every scale, whose amplitude falls with the scale. The i-th is a function of
 * (kind, seed, i).
 */
export async function makePictures(kind: PictureKind, seed: number): Promise<Uint8Array[]> {
  const { width, height } = PICTURES[kind];
  const pictures: Uint8Array[] = [];
  for (let i = 0; i < DIFFERENT; i++) {
    const channels = kind === 'png' ? 4 : 3;
    const pixels = paint(width, height, channels, new Random(seed, streams.benchmark, i));
    const image = sharp(pixels, { raw: { width, height, channels } });
    const encoded = kind === 'png' ? image.png() : image.jpeg({ quality: 92 });
    pictures.push(await encoded.toBuffer());
  }
  return pictures;
}

function paint(width: number, height: number, channels: 3 | 4, random: Random): Uint8Array {
  const sums = new Float32Array(width * height * channels).fill(128);
  for (let cell = 256; cell >= 1; cell /= 2) {
    const columns = Math.ceil(width / cell) + 2;
    const rows = Math.ceil(height / cell) + 2;
    const amplitude = 64 * (cell / 256) ** 0.42;
    // What is fine is of one colour, as in photographs.
    const colours = cell <= 4 ? 1 : channels;
    const grid = Float32Array.from(
      { length: columns * rows * colours },
      () => (random.word() / 2 ** 31 - 1) * amplitude,
    );
    const stride = columns * colours;
    for (let y = 0, out = 0; y < height; y++) {
      const row = Math.floor(y / cell);
      const down = y / cell - row;
      for (let x = 0; x < width; x++) {
        const column = Math.floor(x / cell);
        const across = x / cell - column;
        for (let c = 0; c < channels; c++, out++) {
          const at = row * stride + column * colours + (colours === 1 ? 0 : c);
          const above = grid[at]! * (1 - across) + grid[at + colours]! * across;
          const below = grid[at + stride]! * (1 - across) + grid[at + stride + colours]! * across;
          sums[out]! += above * (1 - down) + below * down;
        }
      }
    }
  }
  return Uint8Array.from(sums, (value) => Math.max(0, Math.min(255, value)));
}

/** Writes so many images into a folder, as files with captions, or as a WebDataset tar; what to open as a data set. */
export async function writePictures(
  folder: string,
  pictures: readonly Uint8Array[],
  count: number,
  source: 'files' | 'tar',
  extension: string,
): Promise<string> {
  const name = (i: number) => String(i).padStart(6, '0');
  if (source === 'files') {
    const images = join(folder, 'images');
    await mkdir(images, { recursive: true });
    for (let i = 0; i < count; i++) {
      await writeFile(join(images, `${name(i)}.${extension}`), pictures[i % pictures.length]!);
    }
    return images;
  }
  const path = join(folder, 'images.tar');
  const file = await open(path, 'w');
  try {
    for (let i = 0; i < count; i++) {
      await file.write(tarEntry(`${name(i)}.${extension}`, pictures[i % pictures.length]!));
      await file.write(tarEntry(`${name(i)}.txt`, Buffer.from(`picture ${i}`)));
    }
    await file.write(Buffer.alloc(1024));
  } finally {
    await file.close();
  }
  return path;
}

function tarEntry(name: string, contents: Uint8Array): Uint8Array {
  const header = Buffer.alloc(512);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`;
  header.write(name, 0);
  header.write(octal(0o644, 7), 100);
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  header.write(octal(contents.length, 11), 124);
  header.write(octal(0, 11), 136);
  header.write('        ', 148);
  header.write('0', 156);
  header.write('ustar\x0000', 257);
  header.write(
    `${octal(
      header.reduce((sum, byte) => sum + byte, 0),
      6,
    )} `,
    148,
  );
  return Buffer.concat([header, contents, Buffer.alloc((512 - (contents.length % 512)) % 512)]);
}
