import { readdir } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import type { Entry, Found, OpenDatasetOptions, Skipped } from './dataset.ts';
import { captionsOf, IMAGE_EXTENSIONS, splitFields } from './fields.ts';
import { indexTar, readMembers, type TarMember } from './tar.ts';

/** The members of a tar that belong to one image. */
interface Sample {
  image?: TarMember;
  text?: TarMember;
  json?: TarMember;
}

/** Tars that lie in a folder, sorted by name. */
export async function findTars(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error) => {
    throw readError(folder, error);
  });
  return names
    .filter((name) => name.endsWith('.tar') && !name.startsWith('.'))
    .sort()
    .map((name) => join(folder, name));
}

/**
 * Reads WebDataset tars: members of one name up to the first dot are one sample, `.jpg` (or another image), `.txt` with the
 * caption, `.json` with metadata and, where there is no `.txt`, the caption. Samples keep the order of their images.
 *
 * The key is the name. Where several tars use the same names, every key is `TAR/NAME` instead. A damaged tar gives what comes
 * before the damage; with a single tar that is none at all, it is an error.
 */
export async function readWebDataset(
  tars: readonly string[],
  options: OpenDatasetOptions & { captions: boolean },
): Promise<Found> {
  const shards: Found[] = [];
  for (const tar of tars) {
    try {
      shards.push(await readTar(tar, options));
    } catch (error) {
      if (!(error instanceof CidError) || tars.length === 1) throw error;
      const reason = error.code === 'FILE_NOT_FOUND' ? 'no such file' : error.message;
      shards.push({ entries: [], skipped: [{ key: basename(tar), reason }] });
    }
  }
  const entries = shards.flatMap((shard) => shard.entries);
  const repeated = new Set(entries.map((entry) => entry.key)).size < entries.length;
  return {
    entries: repeated ? entries.map((entry) => ({ ...entry, key: inTar(entry.path, entry.key) })) : entries,
    skipped: shards.flatMap((shard) => shard.skipped),
  };
}

const inTar = (tar: string, key: string) => `${basename(tar, '.tar')}/${key}`;

async function readTar(tar: string, options: OpenDatasetOptions & { captions: boolean }): Promise<Found> {
  const { members, damage } = await indexTar(tar);
  const skipped: Skipped[] = [];
  if (damage !== undefined) skipped.push({ key: basename(tar), reason: `the tar is damaged: ${damage}` });

  const samples = new Map<string, Sample>();
  for (const member of members) {
    const key = keyOf(member.name);
    const extension = extname(member.name).toLowerCase();
    const sample = samples.get(key) ?? {};
    if (IMAGE_EXTENSIONS.includes(extension)) {
      if (sample.image === undefined) sample.image = member;
      else skipped.push({ key: inTar(tar, member.name), reason: 'another image has the same name' });
    } else if (extension === '.txt') sample.text ??= member;
    else if (extension === '.json') sample.json ??= member;
    else continue;
    samples.set(key, sample);
  }

  const texts = await readTexts(tar, samples);
  const entries: Entry[] = [];
  for (const [key, { image, text, json }] of samples) {
    if (image === undefined) {
      skipped.push({ key: inTar(tar, key), reason: 'no image of that name' });
      continue;
    }
    const record = json === undefined ? {} : parseObject(texts.get(json)!);
    if (record === undefined) {
      skipped.push({ key: inTar(tar, key), reason: 'its .json is not a JSON object' });
      continue;
    }
    const { captions: named, metadata } = splitFields(record, { ...options, imageField: '' });
    const plain = text === undefined ? [] : captionsOf(texts.get(text));
    // A field that was asked for by name goes before the .txt; otherwise the .txt is the caption.
    const choices = options.captionField === undefined ? [plain, named] : [named, plain];
    const captions = choices.find((choice) => choice.length > 0) ?? [];
    if (captions.length === 0 && options.captions) {
      skipped.push({ key: inTar(tar, key), reason: 'no caption' });
      continue;
    }
    const { name: member, offset, size } = image;
    entries.push({ key, captions, metadata, path: resolve(tar), member, offset, size });
  }
  return { entries, skipped };
}

/** A member's path up to the first dot of its last part. */
function keyOf(name: string): string {
  const slash = name.lastIndexOf('/') + 1;
  const dot = name.indexOf('.', slash);
  return (dot < 0 ? name : name.slice(0, dot)).replace(/^\.\//, '');
}

async function readTexts(tar: string, samples: ReadonlyMap<string, Sample>): Promise<Map<TarMember, string>> {
  const members = [...samples.values()].flatMap(({ image, text, json }) =>
    image === undefined ? [] : [text, json].filter((member) => member !== undefined),
  );
  members.sort((a, b) => a.offset - b.offset);
  const contents = await readMembers(tar, members);
  return new Map(members.map((member, i) => [member, Buffer.from(contents[i]).toString('utf8')]));
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
