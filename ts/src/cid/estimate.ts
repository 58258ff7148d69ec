import { openStore } from '../data/store.ts';
import type { BalanceMetric } from '../kernels/balance.ts';
import { type BalanceEstimate, estimateBalance } from '../kernels/estimate.ts';
import type { Device } from '../native/devices.ts';
import { defined } from '../run/settings.ts';

export interface EstimateStoreOptions {
  /** Folder of an embedding store, whose checksums are not looked at. */
  readonly embeddings: string;
  readonly threshold: number;
  readonly metric?: BalanceMetric | undefined;
  readonly seed?: number | undefined;
  readonly device?: string | undefined;
  readonly threads?: number | undefined;
  readonly maxMemory?: number | undefined;
  readonly maxDeviceMemory?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a balance of a store would find, take and hold; for a program and for people. */
export async function estimateStore({
  embeddings,
  device,
  ...options
}: EstimateStoreOptions): Promise<{ record: BalanceEstimate & { rows: number; dim: number }; text: string }> {
  const store = await openStore(embeddings, { verify: false });
  const { rows, dim } = store;
  const rowsOf = rows > 0 ? store.image : [{ data: new Float32Array(0), rows: 0, dim: 1 }];
  const found = await estimateBalance(rowsOf, {
    ...defined({ ...options, device: device as Device | undefined }),
    threshold: options.threshold,
  });
  return { record: { rows, dim, ...found }, text: describe(rows, dim, found) };
}

function describe(rows: number, dim: number, found: BalanceEstimate): string {
  const { pairs, seconds, memory, sample } = found;
  const count = (value: number) => Math.round(value).toLocaleString('en-US');
  const exact = sample.queries === rows && sample.keys === rows;
  const basis = exact
    ? 'all pairs were compared'
    : `from ${count(sample.queries)} rows compared with ${count(sample.keys)}`;
  return [
    `balance of ${count(rows)} embeddings of ${dim} dimensions over a cosine of ${found.threshold}, ${basis}:`,
    `  pairs: ${exact ? count(pairs.expected) : `about ${count(pairs.expected)}, ${count(pairs.low)} to ${count(pairs.high)}`}`,
    `  time: ${duration(seconds)}`,
    `  memory: up to ${bytes(memory)} beside the results`,
    `  plan: ${found.plan}`,
  ].join('\n');
}

function bytes(count: number): string {
  const [unit, name] =
    count < 2 ** 20 ? [2 ** 10, 'KiB'] : count < 2 ** 30 ? [2 ** 20, 'MiB'] : [2 ** 30, 'GiB'];
  const value = count / unit;
  return `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en-US')} ${name}`;
}

function duration(seconds: number): string {
  if (seconds < 90) return `${seconds.toPrecision(2)} s`;
  if (seconds < 5400) return `${(seconds / 60).toPrecision(2)} min`;
  return `${(seconds / 3600).toPrecision(2)} h`;
}
