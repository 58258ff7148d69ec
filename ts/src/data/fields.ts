import type { OpenDatasetOptions } from './dataset.ts';

/** Names that a list's columns usually have, the first that is there counts. */
export const IMAGE_FIELDS: readonly string[] = [
  'image',
  'path',
  'file',
  'filename',
  'file_name',
  'filepath',
  'url',
];
export const CAPTION_FIELDS: readonly string[] = ['caption', 'captions', 'text', 'txt', 'title'];
const KEY_FIELDS = ['key', 'id'];

/** Endings of files that are taken for images. */
export const IMAGE_EXTENSIONS: readonly string[] = [
  '.jpg',
  '.jpeg',
  '.png',
  '.webp',
  '.gif',
  '.avif',
  '.tif',
  '.tiff',
];

/** One row of a list, or one JSON object about an image, in the parts that the data set has names for. */
export interface Fields {
  readonly key: string | undefined;
  readonly image: string | undefined;
  readonly captions: readonly string[];
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** Splits a record; the fields that are used leave the metadata. */
export function splitFields(record: Readonly<Record<string, unknown>>, options: OpenDatasetOptions): Fields {
  const imageField = fieldOf(record, options.imageField, IMAGE_FIELDS);
  const captionField = fieldOf(record, options.captionField, CAPTION_FIELDS);
  const keyField = fieldOf(record, undefined, KEY_FIELDS);
  const metadata: Record<string, unknown> = { ...record };
  for (const field of [imageField, captionField, keyField]) if (field !== undefined) delete metadata[field];
  return {
    key: textOf(keyField === undefined ? undefined : record[keyField]),
    image: textOf(imageField === undefined ? undefined : record[imageField]),
    captions: captionsOf(captionField === undefined ? undefined : record[captionField]),
    metadata,
  };
}

function fieldOf(
  record: Readonly<Record<string, unknown>>,
  chosen: string | undefined,
  usual: readonly string[],
): string | undefined {
  if (chosen !== undefined) return chosen in record ? chosen : undefined;
  return usual.find((name) => name in record);
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'number' || typeof value === 'bigint') return String(value);
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** A caption, or several; empty ones are dropped. */
export function captionsOf(value: unknown): string[] {
  const values: unknown[] = Array.isArray(value) ? value : [value];
  return values
    .filter((caption): caption is string => typeof caption === 'string')
    .map((caption) => caption.trim())
    .filter((caption) => caption !== '');
}
