import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const JPEG = /\.jpe?g$/i;

/** The first of some folders that holds JPEGs, or else the first of them: what is missing is then reported image by image. */
export function imageFolder(root: string, candidates: readonly string[]): string {
  const found = candidates.find((name) => namesIn(join(root, name)).some((file) => JPEG.test(file)));
  return join(root, found ?? candidates[0]!);
}

/** Names in a folder; none when there is no such folder. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
