import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { CidError } from '../native/errors.ts';
import type { Executor, ExecutorState } from '../program/executor.ts';
import { readError, writeFileAtomic } from '../run/files.ts';

/**
 * Checkpoints are safetensors files (an 8-byte little-endian length, a JSON header, dense little-endian tensors), so that other
 * tools read them: `model.NAME`, `ema.NAME`, and AdamW's moments `first.NAME` and `second.NAME`. The trainer's own numbers are
 * in the header's metadata.
 */

/** Numbers of a run at a checkpoint. */
export interface CheckpointInfo {
  /** Optimiser steps done. */
  step: number;
  /** Hash of what decides the outcome; '' when the caller gave none. */
  identity: string;
  best?: { step: number; value: number };
  /** Metrics of the last validation before the checkpoint. */
  validation?: { value: number; metrics: Record<string, number> };
}

export interface Checkpoint {
  info: CheckpointInfo;
  /** Without moments when the file holds weights alone. */
  state: Omit<ExecutorState, 'first' | 'second'> & { first?: Float32Array; second?: Float32Array };
}

type Layout = Executor['parameters'];

const KINDS = ['model', 'first', 'second', 'ema'] as const;

/** Writes a checkpoint whole or not at all. `weights` leaves out the moments. */
export async function writeCheckpoint(
  path: string,
  layout: Layout,
  state: ExecutorState,
  info: CheckpointInfo,
  weights = false,
): Promise<void> {
  const buffers = {
    model: state.parameters,
    first: weights ? undefined : state.first,
    second: weights ? undefined : state.second,
    ema: state.ema,
  };
  const header: Record<string, unknown> = {
    __metadata__: { format: 'clip-cid', step: String(state.step), info: JSON.stringify(info) },
  };
  const chunks: Float32Array[] = [];
  let offset = 0;
  for (const kind of KINDS) {
    const buffer = buffers[kind];
    if (!buffer) continue;
    for (const { name, dims, offset: start, length } of layout) {
      const bytes = length * 4;
      header[`${kind}.${name}`] = { dtype: 'F32', shape: dims, data_offsets: [offset, offset + bytes] };
      chunks.push(buffer.subarray(start, start + length));
      offset += bytes;
    }
  }
  // Spaces at the end of the header align the tensors to 8 bytes, as the format's own writers do.
  let json = JSON.stringify(header);
  json += ' '.repeat((8 - (Buffer.byteLength(json) % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  await writeFileAtomic(path, [length, json, ...chunks]);
}

/** Undefined when there is no such file. Fails with FILE_FORMAT, or RUN_CHANGED when it is of other parameters. */
export async function readCheckpoint(path: string, layout: Layout): Promise<Checkpoint | undefined> {
  if (!existsSync(path)) return undefined;
  const bytes = await readFile(path).catch((error: unknown) => {
    throw readError(path, error);
  });
  const { header, body } = parse(path, bytes);
  const metadata = header.__metadata__ as { step?: string; info?: string } | undefined;
  if (metadata?.info === undefined) throw damaged(path);
  const total = layout.reduce((sum, { length }) => sum + length, 0);
  const buffers: Partial<Record<(typeof KINDS)[number], Float32Array>> = {};
  for (const kind of KINDS) {
    if (!layout.some(({ name }) => `${kind}.${name}` in header)) continue;
    const buffer = new Float32Array(total);
    for (const { name, dims, offset, length } of layout) {
      const entry = header[`${kind}.${name}`] as
        | { shape: number[]; data_offsets: [number, number] }
        | undefined;
      if (!entry || entry.shape.join() !== dims.join()) {
        throw new CidError(
          'RUN_CHANGED',
          `${path} is a checkpoint of another model: ${name} [${dims}] is not in it`,
        );
      }
      const [from, to] = entry.data_offsets;
      if (to - from !== length * 4 || to > body.byteLength) throw damaged(path);
      new Uint8Array(buffer.buffer, offset * 4, length * 4).set(body.subarray(from, to));
    }
    buffers[kind] = buffer;
  }
  if (!buffers.model) throw damaged(path);
  return {
    info: JSON.parse(metadata.info) as CheckpointInfo,
    state: {
      step: Number(metadata.step),
      parameters: buffers.model,
      ...(buffers.first && { first: buffers.first }),
      ...(buffers.second && { second: buffers.second }),
      ...(buffers.ema && { ema: buffers.ema }),
    },
  };
}

function parse(path: string, bytes: Buffer): { header: Record<string, unknown>; body: Buffer } {
  const length = bytes.length >= 8 ? Number(bytes.readBigUInt64LE()) : Number.POSITIVE_INFINITY;
  if (8 + length > bytes.length) throw damaged(path);
  try {
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, unknown>;
    return { header, body: bytes.subarray(8 + length) };
  } catch {
    throw damaged(path);
  }
}

function damaged(path: string): CidError {
  return new CidError('FILE_FORMAT', `${path} is not a checkpoint, or is cut short`);
}
