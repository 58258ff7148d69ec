import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import type { StudentOptions } from '../../src/student/config.ts';

const colours = { red: '#d22', green: '#2b2', blue: '#22d', yellow: '#dd2', black: '#111', pink: '#f8c' };
const places = { left: [0, 4], right: [8, 4], top: [4, 0], bottom: [4, 8] } as const;

/** A towers' size that trains in milliseconds a step. */
export const tinyStudent: StudentOptions = {
  embedDim: 16,
  vision: { imageSize: 16, patchSize: 4, width: 24, layers: 2, heads: 2 },
  text: { contextLength: 10, width: 24, layers: 1, heads: 2 },
};

/**
 * Writes 48 images of 16 pixels, a coloured square in one of four places on white or grey, two captions each, and a list of
 * them; returns the path of the list.
 */
export async function writeShapes(folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const lines: string[] = [];
  for (const [colour, fill] of Object.entries(colours)) {
    for (const [place, [x, y]] of Object.entries(places)) {
      for (const ground of ['white', 'grey']) {
        const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"><rect width="16" height="16" fill="${ground}"/><rect x="${x}" y="${y}" width="8" height="8" fill="${fill}"/></svg>`;
        const name = `${colour}-${place}-${ground}.png`;
        await sharp(Buffer.from(svg)).png().toFile(join(folder, name));
        const caption = [
          `a ${colour} square ${place} on ${ground}`,
          `${ground} with ${colour} at the ${place}`,
        ];
        lines.push(JSON.stringify({ image: name, caption, colour }));
      }
    }
  }
  const list = join(folder, 'shapes.jsonl');
  writeFileSync(list, `${lines.join('\n')}\n`);
  return list;
}
