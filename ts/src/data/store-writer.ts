import { open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CidError } from '../native/errors.ts';
import { removeTemporaries, writeError, writeFileAtomic, writeJson } from '../run/files.ts';
import { hashFile, hashValue, type Json } from '../run/hash.ts';
import type { Skipped } from './dataset.ts';
import { floatToHalf } from './half.ts';
import { writeNpy } from './npy.ts';
import {
  PROGRESS_FILE,
  readProgress,
  readStoreRecord,
  type ShardRecord,
  STORE_FILE,
  type StorePlan,
  shardPaths,
  verifyShard,
} from './store.ts';

/** Rows of a shard, and the items that are not in it. */
export interface Shard {
  /** [rows, dim]. */
  readonly images: Float32Array;
  /** [rows, dim]; needed when the plan says so. */
  readonly texts?: Float32Array | undefined;
  /** One object a row. */
  readonly metadata: readonly Readonly<Record<string, unknown>>[];
  readonly skipped: readonly Skipped[];
}

/**
 * Writes an embedding store shard by shard. Shard N covers the items N·shardSize to (N + 1)·shardSize of the data set. A shard is
 * noted once its files are safe on disk, so that a run that is stopped at any moment goes on with the shard it was at.
 */
export class StoreWriter {
  readonly folder: string;
  readonly plan: StorePlan;
  readonly #shards: ShardRecord[];

  private constructor(folder: string, plan: StorePlan, shards: ShardRecord[]) {
    this.folder = folder;
    this.plan = plan;
    this.#shards = shards;
  }

  /**
   * Begins a store, or goes on with the one that is there. Shards whose files were damaged since are made again. Fails with
   * RUN_CHANGED when it was made by another plan, naming what differs.
   */
  static async open(folder: string, plan: StorePlan): Promise<StoreWriter> {
    const finished = await readStoreRecord(folder).catch((error) => {
      if (error instanceof CidError && error.code === 'FILE_NOT_FOUND') return undefined;
      throw error;
    });
    const path = join(folder, PROGRESS_FILE);
    const [earlier, ...lines] = finished ? [finished.plan, ...finished.shards] : await readProgress(path);
    if (earlier !== undefined) checkPlan(folder, earlier as StorePlan, plan);
    const shards: ShardRecord[] = [];
    for (const shard of lines as ShardRecord[]) {
      const whole = await verifyShard(folder, shard).then(
        () => true,
        () => false,
      );
      if (!whole) break;
      shards.push(shard);
    }
    const writer = new StoreWriter(folder, plan, shards);
    if (finished && shards.length === finished.shards.length) return writer;
    const text = [plan, ...shards].map((line) => `${JSON.stringify(line)}\n`).join('');
    await writeFileAtomic(path, text);
    await rm(join(folder, STORE_FILE), { force: true });
    for (const file of Object.values(shardPaths(0))) await removeTemporaries(join(folder, dirname(file)));
    return writer;
  }

  /** The shard to write next. */
  get next(): number {
    return this.#shards.length;
  }

  /** Shards of a whole store. */
  get count(): number {
    return Math.ceil(this.plan.items / this.plan.shardSize);
  }

  /** Writes shard `next`. Fails with FILE_WRITE, and then the store is as it was before. */
  async add(shard: Shard): Promise<void> {
    const { dim, dtype, items, shardSize, texts } = this.plan;
    const index = this.next;
    const rows = shard.metadata.length;
    const paths = shardPaths(index);
    const embeddings = async (path: string, values: Float32Array) => {
      const data = dtype === 'float16' ? floatToHalf(values) : values;
      await writeNpy(join(this.folder, path), data, [rows, dim]);
    };
    await embeddings(paths.image, shard.images);
    if (texts) await embeddings(paths.text, shard.texts ?? new Float32Array(0));
    await writeFileAtomic(
      join(this.folder, paths.metadata),
      shard.metadata.map((fields) => `${JSON.stringify(fields)}\n`).join(''),
    );
    const files: Record<string, string> = {};
    for (const path of [paths.image, ...(texts ? [paths.text] : []), paths.metadata]) {
      files[path] = await hashFile(join(this.folder, path));
    }
    const from = index * shardSize;
    const to = Math.min(from + shardSize, items);
    const record: ShardRecord = { from, to, rows, files, skipped: shard.skipped };
    await appendSynced(join(this.folder, PROGRESS_FILE), `${JSON.stringify(record)}\n`);
    this.#shards.push(record);
  }

  /** Writes the record that makes it a store. `skipped` are items that the data set itself left out. */
  async finish(source: string, skipped: readonly Skipped[]): Promise<void> {
    const record = { version: 1, plan: this.plan, source, shards: this.#shards, skipped };
    await writeJson(join(this.folder, STORE_FILE), record);
    await rm(join(this.folder, PROGRESS_FILE), { force: true });
  }
}

function checkPlan(folder: string, earlier: StorePlan, plan: StorePlan): void {
  const keys = Object.keys(plan) as (keyof StorePlan)[];
  const changed = keys.filter((key) => hashValue((earlier[key] ?? null) as Json) !== hashValue(plan[key]));
  if (changed.length === 0) return;
  const parts = changed.map((key) => {
    const [was, is] = [earlier[key], plan[key]].map((value) => JSON.stringify(value) ?? 'nothing');
    return was.length + is.length > 120 ? key : `${key} (was ${was}, now ${is})`;
  });
  throw new CidError(
    'RUN_CHANGED',
    `The embedding store ${folder} was made with another ${parts.join(', ')}`,
  );
}

async function appendSynced(path: string, text: string): Promise<void> {
  try {
    const handle = await open(path, 'a');
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw writeError(path, error);
  }
}
