import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll } from 'vitest';
import { encodeModel, readModel } from '../../../src/onnx/model.ts';
import type { ModelProto } from '../../../src/onnx/onnx_pb.ts';
import { bytesOf } from '../../../src/onnx/tensor.ts';
import { product } from '../../../src/program/attributes.ts';
import { hashed } from '../../program/support/torch.ts';

interface Measures {
  readonly distance: readonly number[];
  readonly entropy: readonly number[];
  readonly divergence: number;
}

/** What scripts/attention-fixtures.py writes: a graph as PyTorch exports it, and its attention in float64. */
export interface AttentionCase {
  readonly model: ModelProto;
  /** [images, 3, size, size]. */
  readonly pixels: Float32Array;
  readonly images: number;
  readonly size: number;
  readonly output: readonly number[];
  readonly layers: readonly (Measures & {
    readonly patches: Measures;
    readonly heads: number;
    readonly tokens: number;
    readonly classTokens: number;
    readonly cell: number;
    readonly windows: number;
  })[];
}

export async function attentionCase(name: string): Promise<AttentionCase> {
  const path = (extension: string) =>
    fileURLToPath(new URL(`../../fixtures/attention/${name}.${extension}`, import.meta.url));
  const stored = JSON.parse(readFileSync(path('json'), 'utf8'));
  const model = await readModel(path('onnx'));
  for (const { name: tensor, dims, seed, scale, shift } of stored.tensors) {
    const initializer = model.graph!.initializer.find((candidate) => candidate.name === tensor)!;
    initializer.rawData = bytesOf(hashed(seed, product(dims), scale, shift)) as Uint8Array<ArrayBuffer>;
  }
  const { dims, seed } = stored.input;
  return {
    model,
    pixels: hashed(seed, product(dims)),
    images: dims[0],
    size: dims[2],
    output: stored.output,
    layers: stored.layers,
  };
}

/** A folder for model files; gone after the tests of the file. */
export function modelFolder(): (name: string, model: ModelProto) => Promise<string> {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'attention-'));
  });
  afterAll(() => rm(folder, { recursive: true }));
  return async (name, model) => {
    const path = join(folder, `${name}.onnx`);
    await writeFile(path, encodeModel(model));
    return path;
  };
}
