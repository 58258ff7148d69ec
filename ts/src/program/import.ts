import { halfToFloat } from '../data/half.ts';
import { CidError } from '../native/errors.ts';
import type { AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto } from '../onnx/onnx_pb.ts';
import { decodeTensor, elementType } from '../onnx/tensor.ts';
import { describeNode } from './attributes.ts';
import type { Parameter } from './executor.ts';
import type { Attribute, Constant, Dimension, Graph, GraphNode, GraphValue } from './graph.ts';

/** Operator sets whose operators mean what the rules take them to mean. */
const OPSETS = { first: 13, last: 23 };
/** What graphs are raised to: between 13 and 17 no operator that has a rule changed its meaning. */
const OWN_OPSET = 17;
/** A value beyond this is a mask's, not a weight's. */
const LARGEST_WEIGHT = 1e4;

export interface ImportOptions {
  /** Keeps parameters of these names as they are. Defaults to training all that looks learned. */
  frozen?: (name: string) => boolean;
}

export interface ImportedModel {
  readonly graph: Graph;
  /** In the order of the file. */
  readonly parameters: readonly Parameter[];
}

/**
 * An ONNX model as a graph that can be trained. Float initializers become parameters by their use: operands of products and
 * convolutions, tables, biases, scales and shifts of norms are learned; running statistics are kept but not learned; single
 * numbers, masks and everything else stays constant. float16 initializers behind a Cast to float32 are widened, under the name
 * of the Cast's output.
 *
 * @throws CidError MODEL_INVALID for a damaged model, MODEL_UNSUPPORTED for operator sets, types or attributes out of reach,
 *   naming operator and node. Operators without rules show when the graph is run.
 */
export function importModel(model: ModelProto, options: ImportOptions = {}): ImportedModel {
  const proto = model.graph;
  if (!proto) throw new CidError('MODEL_INVALID', 'The model has no graph');
  const opset = opsetOf(model);
  const initializers = new Map(proto.initializer.map((tensor) => [tensor.name, tensor]));
  if (proto.sparseInitializer.length > 0) {
    throw new CidError('MODEL_UNSUPPORTED', 'The model has sparse initializers');
  }
  const values = new Map<string, Constant>();
  const nodes: GraphNode[] = [];
  for (const [name, tensor] of initializers) values.set(name, decodeTensor(tensor));
  for (const nodeProto of proto.node) {
    const node = importNode(nodeProto);
    const constant = node.op === 'Constant' ? constantOf(node) : widened(node, values);
    if (constant) values.set(node.outputs[0]!, constant);
    else nodes.push(node);
  }

  const uses = usesOf(nodes);
  const parameters: Parameter[] = [];
  const constants = new Map<string, Constant>();
  for (const [name, value] of values) {
    const use = parameterUse(value, uses.get(name) ?? []);
    if (!use) {
      if (uses.has(name) || proto.output.some((output) => output.name === name)) constants.set(name, value);
      continue;
    }
    parameters.push({
      name,
      dims: value.dims,
      value: value.data as Float32Array,
      decay: value.dims.filter((dim) => dim > 1).length >= 2,
      trainable: use === 'learned' && !options.frozen?.(name),
    });
  }
  const graph: Graph = {
    name: proto.name || 'model',
    inputs: proto.input.filter(({ name }) => !initializers.has(name)).map(importValue),
    outputs: proto.output.map(importValue),
    parameters: parameters.map(({ name, dims }) => ({ name, type: 'float32', dims })),
    constants,
    nodes,
    opset,
  };
  return { graph, parameters };
}

function opsetOf(model: ModelProto): number {
  const entry = model.opsetImport.find(({ domain }) => domain === '' || domain === 'ai.onnx');
  const version = Number(entry?.version ?? 0);
  if (version < OPSETS.first || version > OPSETS.last) {
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `The model uses operator set ${version}; sets ${OPSETS.first} to ${OPSETS.last} can be trained`,
    );
  }
  return Math.max(version, OWN_OPSET);
}

function importValue({ name, type }: ValueInfoProto): GraphValue {
  const tensor = type?.value.case === 'tensorType' ? type.value.value : undefined;
  const element = elementType(tensor?.elemType ?? 0);
  if (!element)
    throw new CidError('MODEL_UNSUPPORTED', `Input or output '${name}' has no type that can be fed`);
  const dims = (tensor?.shape?.dim ?? []).map(({ value }, i): Dimension => {
    if (value.case === 'dimValue') return Number(value.value);
    return value.case === 'dimParam' && value.value !== '' ? value.value : `${name}_${i}`;
  });
  return { name, type: element, dims };
}

function importNode(proto: NodeProto): GraphNode {
  const node: GraphNode = {
    op: proto.opType,
    domain: proto.domain === 'ai.onnx' ? '' : proto.domain,
    name: proto.name,
    inputs: proto.input,
    outputs: proto.output,
    attributes: {},
  };
  const attributes = proto.attribute.map((attribute) => {
    const value = importAttribute(attribute);
    if (value) return [attribute.name, value] as const;
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `Operator ${describeNode(node)} has attribute '${attribute.name}' of a kind that cannot be trained through`,
    );
  });
  return { ...node, attributes: Object.fromEntries(attributes) };
}

function importAttribute(proto: AttributeProto): Attribute | undefined {
  if (proto.refAttrName !== '') return undefined;
  switch (proto.type) {
    case 1:
      return { kind: 'float', value: proto.f };
    case 2:
      return { kind: 'int', value: Number(proto.i) };
    case 3:
      return { kind: 'string', value: new TextDecoder().decode(proto.s) };
    case 4:
      return proto.t && { kind: 'tensor', value: decodeTensor(proto.t as TensorProto) };
    case 6:
      return { kind: 'floats', value: proto.floats };
    case 7:
      return { kind: 'ints', value: proto.ints.map(Number) };
    default:
      return undefined;
  }
}

/** The value of a Constant node in any of the forms that ONNX has for it. */
function constantOf(node: GraphNode): Constant | undefined {
  const { value, value_float, value_floats, value_int, value_ints } = node.attributes;
  if (value?.kind === 'tensor') return value.value;
  if (value_float?.kind === 'float') {
    return { type: 'float32', dims: [], data: Float32Array.of(value_float.value) };
  }
  if (value_floats?.kind === 'floats') {
    return {
      type: 'float32',
      dims: [value_floats.value.length],
      data: Float32Array.from(value_floats.value),
    };
  }
  if (value_int?.kind === 'int') {
    return { type: 'int64', dims: [], data: BigInt64Array.of(BigInt(value_int.value)) };
  }
  if (value_ints?.kind === 'ints') {
    return {
      type: 'int64',
      dims: [value_ints.value.length],
      data: BigInt64Array.from(value_ints.value, BigInt),
    };
  }
  throw new CidError(
    'MODEL_UNSUPPORTED',
    `Operator ${describeNode(node)} holds a value of a kind that is not supported`,
  );
}

/** A float16 initializer that a node casts to float32. */
function widened(node: GraphNode, values: ReadonlyMap<string, Constant>): Constant | undefined {
  if (node.op !== 'Cast' || node.attributes.to?.value !== 1) return undefined;
  const half = values.get(node.inputs[0]!);
  if (half?.type !== 'float16') return undefined;
  return { type: 'float32', dims: half.dims, data: halfToFloat(half.data as Uint16Array) };
}

interface Use {
  readonly op: string;
  readonly input: number;
}

/** Uses by value. What only moves elements is looked through: a weight that is transposed first is used as its product uses it. */
function usesOf(nodes: readonly GraphNode[]): Map<string, Use[]> {
  const uses = new Map<string, Use[]>();
  for (const node of nodes.toReversed()) {
    for (const [input, name] of node.inputs.entries()) {
      if (name === '') continue;
      const own = { op: node.op, input };
      const moved = input === 0 && MOVES.has(node.op) ? (uses.get(node.outputs[0]!) ?? []) : [];
      uses.set(name, [...(uses.get(name) ?? []), own, ...moved]);
    }
  }
  return uses;
}

const MOVES = new Set([
  'Transpose',
  'Reshape',
  'Identity',
  'Unsqueeze',
  'Squeeze',
  'Expand',
  'Slice',
  'Flatten',
]);

/** Inputs that are learned whatever their size. */
const WEIGHTS: Readonly<Record<string, readonly number[]>> = {
  MatMul: [0, 1],
  FusedMatMul: [0, 1],
  Gemm: [0, 1, 2],
  Conv: [1, 2],
  LayerNormalization: [1, 2],
  BatchNormalization: [1, 2],
};

/** Inputs that are learned when they are more than a number: biases, scales, tables, tokens. */
const OPERANDS: Readonly<Record<string, readonly number[]>> = {
  Add: [0, 1],
  Sub: [0, 1],
  Mul: [0, 1],
  Gather: [0],
};

function parameterUse(value: Constant, uses: readonly Use[]): 'learned' | 'kept' | undefined {
  if (value.type !== 'float32' || value.data.length === 0) return undefined;
  const at = (table: Readonly<Record<string, readonly number[]>>) =>
    uses.some(({ op, input }) => table[op]?.includes(input));
  if (uses.some(({ op, input }) => op === 'BatchNormalization' && input >= 3)) return 'kept';
  if (at(WEIGHTS)) return 'learned';
  const many = value.data.length > 1;
  const concatenated = uses.some(({ op }) => op === 'Concat');
  return many && (at(OPERANDS) || concatenated) && isWeight(value.data as Float32Array)
    ? 'learned'
    : undefined;
}

/** False for a mask. */
function isWeight(values: Float32Array): boolean {
  return values.every((value) => Math.abs(value) <= LARGEST_WEIGHT);
}
