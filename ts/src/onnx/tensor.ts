import { create } from '@bufbuild/protobuf';
import { CidError } from '../native/errors.ts';
import type { TensorProto } from './onnx_pb.ts';
import { TensorProtoSchema } from './onnx_pb.ts';

/** Element types that this package works with; ONNX has more. `float16` is raw bits in a Uint16Array, `bool` one byte each. */
export type ElementType = 'float32' | 'float16' | 'float64' | 'int32' | 'int64' | 'bool' | 'uint8' | 'int8';

export type TensorData =
  | Float32Array
  | Float64Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Int8Array
  | Uint16Array;

/** A dense tensor, row-major. */
export interface OnnxTensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly data: TensorData;
}

interface ElementInfo {
  /** Number of the type in ONNX files. */
  readonly code: number;
  readonly bytes: number;
  readonly array: {
    new (length: number): TensorData;
    new (buffer: ArrayBufferLike, offset: number, length: number): TensorData;
  };
}

const ELEMENTS: Record<ElementType, ElementInfo> = {
  float32: { code: 1, bytes: 4, array: Float32Array },
  uint8: { code: 2, bytes: 1, array: Uint8Array },
  int8: { code: 3, bytes: 1, array: Int8Array },
  int32: { code: 6, bytes: 4, array: Int32Array },
  int64: { code: 7, bytes: 8, array: BigInt64Array },
  bool: { code: 9, bytes: 1, array: Uint8Array },
  float16: { code: 10, bytes: 2, array: Uint16Array },
  float64: { code: 11, bytes: 8, array: Float64Array },
};

const TYPES = new Map(Object.entries(ELEMENTS).map(([type, info]) => [info.code, type as ElementType]));

/** ONNX's number of a type. */
export function elementCode(type: ElementType): number {
  return ELEMENTS[type].code;
}

/** The type of ONNX's number, or undefined for one that this package does not work with. */
export function elementType(code: number): ElementType | undefined {
  return TYPES.get(code);
}

export function elementBytes(type: ElementType): number {
  return ELEMENTS[type].bytes;
}

/** Number of elements of a shape. */
export function elementCount(dims: readonly number[]): number {
  return dims.reduce((count, dim) => count * dim, 1);
}

/** A zeroed array for `length` elements. */
export function newData(type: ElementType, length: number): TensorData {
  return new ELEMENTS[type].array(length);
}

/** The bytes of an array, without a copy. */
export function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** `MODEL_INVALID` for a damaged tensor, `MODEL_UNSUPPORTED` for a type that this package does not work with. */
export function decodeTensor(proto: TensorProto): OnnxTensor {
  const type = elementType(proto.dataType);
  if (type === undefined) {
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `Tensor '${proto.name}' has element type ${proto.dataType} of ONNX`,
    );
  }
  if (proto.dataLocation === 1) {
    throw new CidError('MODEL_INVALID', `Tensor '${proto.name}' lies in an external file that was not read`);
  }
  const dims = proto.dims.map(Number);
  const length = elementCount(dims);
  const data = proto.rawData.length > 0 ? fromRaw(type, proto.rawData, length) : fromFields(type, proto);
  if (data === undefined || data.length !== length) {
    throw new CidError(
      'MODEL_INVALID',
      `Tensor '${proto.name}' of shape [${dims}] does not hold ${length} values`,
    );
  }
  return { type, dims, data };
}

function fromRaw(type: ElementType, raw: Uint8Array, length: number): TensorData | undefined {
  const { bytes, array } = ELEMENTS[type];
  if (raw.byteLength !== length * bytes) return undefined;
  // Fields of a decoded file are views at any byte; typed arrays need theirs aligned. (A Buffer's own slice does not copy.)
  const aligned = raw.byteOffset % bytes === 0 ? raw : Uint8Array.prototype.slice.call(raw);
  return new array(aligned.buffer, aligned.byteOffset, length);
}

function fromFields(type: ElementType, proto: TensorProto): TensorData | undefined {
  switch (type) {
    case 'float32':
      return Float32Array.from(proto.floatData);
    case 'float64':
      return Float64Array.from(proto.doubleData);
    case 'int64':
      return BigInt64Array.from(proto.int64Data);
    case 'int32':
      return Int32Array.from(proto.int32Data);
    case 'int8':
      return Int8Array.from(proto.int32Data);
    case 'float16':
      return Uint16Array.from(proto.int32Data);
    default:
      return Uint8Array.from(proto.int32Data);
  }
}

/** The message shares the tensor's memory. */
export function encodeTensor(name: string, tensor: OnnxTensor): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dataType: elementCode(tensor.type),
    dims: tensor.dims.map(BigInt),
    rawData: bytesOf(tensor.data) as Uint8Array<ArrayBuffer>,
  });
}
