import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { readError, readText } from '../run/files.ts';
import type { Entry, Found, OpenDatasetOptions, Skipped } from './dataset.ts';
import { captionsOf, type Fields, IMAGE_EXTENSIONS, splitFields } from './fields.ts';
import { jsonLines } from './manifest.ts';

const METADATA = 'metadata.jsonl';

/**
 * Reads the images of a folder and its subfolders, sorted by path. The key is the path within the folder. A caption comes from
 * the nearest `metadata.jsonl` row that names the image, else from the lines of `NAME.txt` beside it. Names that start with a
 * dot are passed over.
 */
export async function readFolder(
  folder: string,
  options: OpenDatasetOptions & { captions: boolean },
): Promise<Found> {
  const root = resolve(folder);
  const files = (await walk(root, '')).sort();
  const images = files.filter((file) => IMAGE_EXTENSIONS.includes(extname(file).toLowerCase()));
  const skipped: Skipped[] = [];
  const rows = new Map<string, Fields>();
  for (const file of files.filter((name) => basename(name) === METADATA)) {
    await readMetadata(root, file, options, rows, skipped);
  }

  const texts = new Set(files.filter((file) => extname(file) === '.txt'));
  const named = new Set<string>();
  const entries: Entry[] = [];
  for (const key of images) {
    const path = join(root, key);
    const row = rows.get(key);
    const text = `${key.slice(0, -extname(key).length)}.txt`;
    named.add(key).add(text);
    const captions = row?.captions.length
      ? row.captions
      : texts.has(text)
        ? await readLines(join(root, text))
        : [];
    if (captions.length === 0 && options.captions) {
      skipped.push({ key, reason: 'no caption' });
      continue;
    }
    const size = await stat(path).then(
      (status) => status.size,
      (error) => Promise.reject(readError(path, error)),
    );
    const parent = dirname(key);
    const metadata = { ...(parent === '.' ? {} : { folder: parent }), ...row?.metadata };
    entries.push({ key, captions, metadata, path, offset: 0, size });
  }

  if (images.length === 0 && files.length > 0) {
    throw new CidError(
      'INVALID_DATA',
      `There are no images in ${folder}, only ${files.length} other files, such as ${files[0]}`,
    );
  }
  for (const key of [...rows.keys(), ...texts]) {
    if (!named.has(key)) skipped.push({ key, reason: 'a caption without an image' });
  }
  return { entries, skipped };
}

async function walk(root: string, folder: string): Promise<string[]> {
  const children = await readdir(join(root, folder), { withFileTypes: true }).catch((error) => {
    throw readError(join(root, folder), error);
  });
  const found: string[] = [];
  for (const child of children) {
    if (child.name.startsWith('.')) continue;
    const path = folder === '' ? child.name : `${folder}/${child.name}`;
    const status = child.isSymbolicLink() ? await stat(join(root, path)).catch(() => undefined) : child;
    if (status?.isDirectory() && !child.isSymbolicLink()) found.push(...(await walk(root, path)));
    else if (status?.isFile()) found.push(path);
  }
  return found;
}

/** Adds the rows of a `metadata.jsonl` by the path of their image; its paths are relative to its own folder. */
async function readMetadata(
  root: string,
  file: string,
  options: OpenDatasetOptions,
  rows: Map<string, Fields>,
  skipped: Skipped[],
): Promise<void> {
  const parent = dirname(file);
  for await (const { line, value } of jsonLines(join(root, file))) {
    const fields = value === undefined ? undefined : splitFields(value, options);
    if (fields?.image === undefined) {
      skipped.push({ key: `${file}:${line}`, reason: fields ? 'no image named' : 'not a JSON object' });
    } else {
      rows.set(join(parent, fields.image), fields);
    }
  }
}

async function readLines(path: string): Promise<string[]> {
  return captionsOf((await readText(path)).split(/\r?\n/));
}
