import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openDataset } from '../data/dataset.ts';
import { openStore, STORE_FILE, type Store } from '../data/store.ts';
import { defined } from '../run/settings.ts';

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
