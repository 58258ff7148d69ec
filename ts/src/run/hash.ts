import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readError } from './files.ts';

/** What a stage's options and summaries are made of. */
export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [name: string]: Json | undefined };

/** SHA-256 of text or bytes, hex. */
export function hashBytes(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** SHA-256 of a value's JSON with its fields in sorted order, so that the order they were written in does not matter. */
export function hashValue(value: Json): string {
  return hashBytes(stableJson(value));
}

/** JSON with sorted fields; fields that are undefined are left out. */
export function stableJson(value: Json): string {
  return JSON.stringify(value, (_name, field: unknown) =>
    field && typeof field === 'object' && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : field,
  );
}

/** SHA-256 of a file's bytes, hex; reads it in pieces. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
      hash.update(chunk as Buffer);
  } catch (error) {
    throw readError(path, error);
  }
  return hash.digest('hex');
}
