import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { openDataset } from '../data/dataset.ts';
import { openStore, STORE_FILE, type Store } from '../data/store.ts';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import { hashFile, hashValue } from '../run/hash.ts';
import { defined } from './stage.ts';

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

/** Hash of a data set's list (see `Dataset.hash`) and of what it says of the items, among it the classes that models are measured by. */
export async function hashDataset(
  source: string,
  { imageField, captionField }: { imageField?: string | undefined; captionField?: string | undefined } = {},
): Promise<string> {
  const data = await openDataset(source, { captions: false, ...defined({ imageField, captionField }) });
  await data.dispose();
  const hash = createHash('sha256').update(data.hash);
  // Nested fields of a Parquet file may be 64-bit integers, which JSON has not.
  const plain = (_name: string, field: unknown) => (typeof field === 'bigint' ? String(field) : field);
  for (let i = 0; i < data.length; i++) hash.update(`${JSON.stringify(data.item(i).metadata, plain)}\n`);
  return hash.digest('hex');
}

/** Opens embeddings to identify them. Ours carry checksums in their record; of others every byte is read once. */
export function identifyStore(folder: string): Promise<Store> {
  return openStore(folder, { verify: !existsSync(join(folder, STORE_FILE)) });
}
