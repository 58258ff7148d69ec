import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readModel } from '../../../src/onnx/model.ts';
import { bytesOf } from '../../../src/onnx/tensor.ts';
import { product } from '../../../src/program/attributes.ts';
import type { Tensor } from '../../../src/program/executor.ts';
import { type ImportedModel, importModel } from '../../../src/program/import.ts';

/** What scripts/torch-fixtures.py writes beside a graph. */
interface Case {
  readonly input: { readonly dims: number[]; readonly seed?: number; readonly ids?: number[] };
  readonly output: number[];
  readonly tensors: readonly { name: string; dims: number[]; seed: number; scale: number; shift: number }[];
  readonly optimiser: { rate: number; decay: number; betas: [number, number]; epsilon: number; clip: number };
  readonly losses: number[];
}

export interface TorchCase extends Case {
  readonly model: ImportedModel;
  readonly inputs: { input: Tensor };
  /** PyTorch's, in float64: the output, gradients of Σ output · values(7), running statistics after that one step. */
  readonly expected: {
    readonly output: Float32Array;
    readonly gradients: ReadonlyMap<string, Float32Array>;
    readonly statistics: ReadonlyMap<string, Float32Array>;
  };
}

/** Numbers in [−1, 1): the hash of (seed, index) that the script fills its tensors with. */
export function hashed(seed: number, count: number, scale = 1, shift = 0): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    let x = (Math.imul(i, 2654435761) + Math.imul(seed, 2246822519) + 374761393) >>> 0;
    for (const multiplier of [0x85ebca6b, 0xc2b2ae35]) x = Math.imul(x ^ (x >>> 15), multiplier) >>> 0;
    x = (x ^ (x >>> 16)) >>> 0;
    return (x / 2 ** 31 - 1) * scale + shift;
  });
}

export async function torchCase(name: string): Promise<TorchCase> {
  const path = (extension: string) =>
    fileURLToPath(new URL(`../../fixtures/onnx/${name}.${extension}`, import.meta.url));
  const stored = JSON.parse(readFileSync(path('json'), 'utf8')) as Case;
  const proto = await readModel(path('onnx'));
  for (const { name: tensor, dims, seed, scale, shift } of stored.tensors) {
    const initializer = proto.graph!.initializer.find((candidate) => candidate.name === tensor)!;
    initializer.rawData = bytesOf(hashed(seed, product(dims), scale, shift)) as Uint8Array<ArrayBuffer>;
  }

  const bytes = readFileSync(path('f32'));
  const all = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  let offset = 0;
  const next = (length: number) => all.subarray(offset, (offset += length));
  const output = next(product(stored.output));
  const gradients = new Map<string, Float32Array>();
  const statistics = new Map<string, Float32Array>();
  for (const { name: tensor, dims } of stored.tensors) {
    (/running_(mean|var)$/.test(tensor) ? statistics : gradients).set(tensor, next(product(dims)));
  }

  const { dims, seed, ids } = stored.input;
  const input: Tensor = ids
    ? { type: 'int64', dims, data: BigInt64Array.from(ids, BigInt) }
    : { type: 'float32', dims, data: hashed(seed!, product(dims)) };
  const model = importModel(proto);
  return { ...stored, model, inputs: { input }, expected: { output, gradients, statistics } };
}
