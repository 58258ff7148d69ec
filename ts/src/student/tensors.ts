import { DeviceTensor } from '../kernels/device-tensor.ts';
import type { AnyTensors, Tensor, Tensors } from '../program/executor.ts';

/** Rows `from` to `to` of a tensor; shares its memory. */
export function rowsOf(tensor: Tensor, from: number, to: number): Tensor;
export function rowsOf(tensor: Tensor | DeviceTensor, from: number, to: number): Tensor | DeviceTensor;
export function rowsOf(tensor: Tensor | DeviceTensor, from: number, to: number): Tensor | DeviceTensor {
  if (tensor instanceof DeviceTensor) return tensor.rows(from, to);
  const [rows = 0, ...rest] = tensor.dims;
  const width = rest.reduce((product, dim) => product * dim, 1);
  if (from === 0 && to === rows) return tensor;
  return {
    ...tensor,
    dims: [to - from, ...rest],
    data: tensor.data.subarray(from * width, to * width) as Tensor['data'],
  };
}

/** Outputs of micro-batches, one under the other. All have the same names and types. */
export function concatenateRows(parts: readonly Tensors[]): Tensors {
  const [head, ...others] = parts;
  if (!head) return {};
  if (others.length === 0) return head;
  const joined: Record<string, Tensor> = {};
  for (const [name, first] of Object.entries(head)) {
    const tensors = parts.map((part) => part[name]!);
    const rows = tensors.reduce((sum, { dims }) => sum + dims[0]!, 0);
    const width = first.dims.slice(1).reduce((product, dim) => product * dim, 1);
    const data = new (first.data.constructor as Float32ArrayConstructor)(rows * width);
    let offset = 0;
    for (const tensor of tensors) {
      data.set(tensor.data as Float32Array, offset);
      offset += tensor.data.length;
    }
    joined[name] = { type: first.type, dims: [rows, ...first.dims.slice(1)], data };
  }
  return joined;
}

/** Gives up what is on a device. */
export function disposeOf(tensors: AnyTensors): void {
  for (const tensor of Object.values(tensors)) if (tensor instanceof DeviceTensor) tensor.dispose();
}

/** With copies of what is on a device. */
export async function toHost(tensors: AnyTensors): Promise<Tensors> {
  const entries = Object.entries(tensors).map(async ([name, tensor]) => [
    name,
    tensor instanceof DeviceTensor ? float32(await tensor.read(), tensor.dims) : tensor,
  ]);
  return Object.fromEntries(await Promise.all(entries)) as Tensors;
}

export function float32(data: Float32Array, dims: readonly number[]): Tensor {
  return { type: 'float32', dims, data };
}

export function int64(data: BigInt64Array, dims: readonly number[]): Tensor {
  return { type: 'int64', dims, data };
}

/** Rows of a dense matrix of `dim` columns, copied. */
export function pickRows(data: Float32Array, rows: Int32Array, dim: number): Float32Array {
  const picked = new Float32Array(rows.length * dim);
  for (const [i, row] of rows.entries()) picked.set(data.subarray(row * dim, (row + 1) * dim), i * dim);
  return picked;
}
