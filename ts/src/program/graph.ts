/**
 * The intermediate representation that everything in `program/` works on: a list of ONNX operators in topological order over
 * named values. Operators and attributes are ONNX's own, so that a graph prints, exports and runs as it reads.
 */

export type DataType = 'float32' | 'float16' | 'float64' | 'int32' | 'int64' | 'bool' | 'uint8' | 'int8';

/** A constant of the graph: shapes, axes, masks, scalars. Learned values are parameters instead. */
export interface Constant {
  readonly type: DataType;
  readonly dims: readonly number[];
  readonly data:
    | Float32Array
    | Float64Array
    | Int32Array
    | BigInt64Array
    | Uint8Array
    | Int8Array
    | Uint16Array;
}

export type Attribute =
  | { readonly kind: 'int'; readonly value: number }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'ints'; readonly value: readonly number[] }
  | { readonly kind: 'floats'; readonly value: readonly number[] }
  | { readonly kind: 'tensor'; readonly value: Constant };

export interface GraphNode {
  readonly op: string;
  /** '' for ONNX's own operators. */
  readonly domain: string;
  readonly name: string;
  /** '' for an optional input that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/** A dimension: a number, or the name of one that a call fixes ('batch'). */
export type Dimension = number | string;

export interface GraphValue {
  readonly name: string;
  readonly type: DataType;
  readonly dims: readonly Dimension[];
}

export interface Graph {
  readonly name: string;
  readonly inputs: readonly GraphValue[];
  readonly outputs: readonly GraphValue[];
  /** float32 values that come from the flat parameter buffer, by name. */
  readonly parameters: readonly (GraphValue & { readonly dims: readonly number[] })[];
  readonly constants: ReadonlyMap<string, Constant>;
  readonly nodes: readonly GraphNode[];
  /** Version of ONNX's operator set; 17 for what our builders write. */
  readonly opset: number;
}
