import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';

/** An encoder's size that trains in milliseconds a step. */
export const tinyVision = { imageSize: 16, patchSize: 4, width: 24, layers: 1, heads: 2 } as const;

/**
 * Writes images of 16 pixels, a square on a ground of random grey, whose score from 1 to 5 is how bright the square is, with a histogram
 * over five bins, and a list `rated.csv` of them with splits: 24 for training, 12 for validation, 12 for testing. Returns its path.
 */
export async function writeRated(folder: string, images = 48): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const lines = ['image,split,1,2,3,4,5'];
  for (let i = 0; i < images; i++) {
    const level = (i * 7) % 5;
    const ground = 40 + ((i * 37) % 160);
    const fill = Math.round((level / 4) * 255);
    const [x, y] = [(i * 3) % 9, (i * 5) % 9];
    const svg =
      `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"><rect width="16" height="16" fill="rgb(${ground},${ground},${ground})"/>` +
      `<rect x="${x}" y="${y}" width="8" height="8" fill="rgb(${fill},20,${255 - fill})"/></svg>`;
    const name = `${String(i).padStart(2, '0')}.png`;
    await sharp(Buffer.from(svg)).png().toFile(join(folder, name));
    const counts = [0, 0, 0, 0, 0];
    counts[level] = 6;
    counts[Math.max(0, level - 1)]! += 2;
    counts[Math.min(4, level + 1)]! += 2;
    const split = i % 4 < 2 ? 'train' : i % 4 === 2 ? 'validation' : 'test';
    lines.push([name, split, ...counts].join(','));
  }
  const list = join(folder, 'rated.csv');
  writeFileSync(list, `${lines.join('\n')}\n`);
  return list;
}
