import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import { hashFile, hashValue, type Json } from '../run/hash.ts';
import { defined } from '../run/settings.ts';

/** How a model folder is opened, as configurations say it. */
export interface EncoderFiles {
  readonly providers?: readonly string[] | undefined;
  readonly visionModel?: string | undefined;
  readonly textModel?: string | undefined;
}

/**
 * Hash of what decides a model folder's embeddings: its JSON files and everything under `onnx/`, or named `.onnx`. A card or a
 * licence beside them may change.
 */
export async function hashModel(folder: string): Promise<string> {
  if (!existsSync(folder)) throw new CidError('MODEL_INVALID', `There is no model folder ${folder}`);
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error) => {
    throw readError(folder, error);
  });
  const names = entries
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((name) => name.startsWith('onnx/') || /^[^/]+\.json$/.test(name) || name.includes('.onnx'))
    .sort();
  const hashes: string[][] = [];
  for (const name of names) hashes.push([name, await hashFile(join(folder, name))]);
  return hashValue(hashes);
}

/**
 * The part of a model's options that shapes its embeddings, for a stage's record: the files that are used of its folder, where they
 * are named, and the providers, where they are not the CPU.
 */
export function encoderIdentity(encoder: EncoderFiles = {}): { encoder?: Record<string, Json> } {
  const { providers = ['cpu'], ...files } = encoder;
  const decisive = defined({ ...files, ...(providers.join() === 'cpu' ? {} : { providers }) });
  return Object.keys(decisive).length === 0 ? {} : { encoder: decisive as Record<string, Json> };
}
