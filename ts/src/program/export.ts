import { create } from '@bufbuild/protobuf';
import { floatToHalf } from '../data/half.ts';
import { CidError } from '../native/errors.ts';
import type { AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto } from '../onnx/onnx_pb.ts';
import {
  AttributeProtoSchema,
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  ValueInfoProtoSchema,
} from '../onnx/onnx_pb.ts';
import { elementCode, elementCount, encodeTensor } from '../onnx/tensor.ts';
import type { Attribute, Graph, GraphNode, GraphValue } from './graph.ts';

/** Version of the file format, of the year of operator set 17, so that old readers take what we write. */
const IR_VERSION = 8n;

export interface ExportOptions {
  /**
   * Stores matrices and kernels as float16 with a Cast to float32 behind each: half the size, the same float32 arithmetic.
   * Defaults to false.
   */
  float16?: boolean;
  /** Written as the model's metadata. */
  metadata?: Readonly<Record<string, string>>;
}

/**
 * A graph with the values of its parameters as an ONNX model. `parameters` holds at least the graph's own, by name; the model
 * shares their memory. A missing or misshapen one is a `RangeError`.
 */
export function exportModel(
  graph: Graph,
  parameters: ReadonlyMap<string, Float32Array>,
  options: ExportOptions = {},
): ModelProto {
  const initializers: TensorProto[] = [];
  const casts: NodeProto[] = [];
  for (const { name, dims } of graph.parameters) {
    const data = parameters.get(name);
    if (data?.length !== elementCount(dims)) {
      const received = data ? `${data.length} values` : 'none';
      throw new RangeError(
        `Expected ${elementCount(dims)} values for parameter ${name} but received ${received}`,
      );
    }
    if (options.float16 && dims.length >= 2) {
      const half = `${name}.float16`;
      const halves = floatToHalf(data);
      if (data.some((value, i) => Number.isFinite(value) && (halves[i]! & 0x7fff) === 0x7c00)) {
        throw new CidError('INVALID_DATA', `Parameter '${name}' has values that are too large for float16`);
      }
      initializers.push(encodeTensor(half, { type: 'float16', dims, data: halves }));
      casts.push(
        encodeNode({
          op: 'Cast',
          domain: '',
          name: `${half}.cast`,
          inputs: [half],
          outputs: [name],
          attributes: { to: { kind: 'int', value: elementCode('float32') } },
        }),
      );
    } else {
      initializers.push(encodeTensor(name, { type: 'float32', dims, data }));
    }
  }
  for (const [name, constant] of graph.constants) initializers.push(encodeTensor(name, constant));
  const nodes = graph.nodes.map(encodeNode);
  return wrap(graph, [...casts, ...nodes], initializers, options.metadata ?? {});
}

/** A graph whose parameters are inputs, as the executor runs it. */
export function exportProgram(graph: Graph): ModelProto {
  const initializers = [...graph.constants].map(([name, constant]) => encodeTensor(name, constant));
  const inputs = [...graph.inputs, ...graph.parameters];
  return wrap({ ...graph, inputs }, graph.nodes.map(encodeNode), initializers, {});
}

function wrap(
  graph: Graph,
  node: NodeProto[],
  initializer: TensorProto[],
  metadata: Readonly<Record<string, string>>,
): ModelProto {
  const domains = new Set(graph.nodes.map(({ domain }) => domain).filter((domain) => domain !== ''));
  return create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    producerName: 'clip-cid',
    opsetImport: [
      create(OperatorSetIdProtoSchema, { domain: '', version: BigInt(graph.opset) }),
      ...[...domains].map((domain) => create(OperatorSetIdProtoSchema, { domain, version: 1n })),
    ],
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
    graph: create(GraphProtoSchema, {
      name: graph.name,
      node,
      initializer,
      input: graph.inputs.map(encodeValue),
      output: graph.outputs.map(encodeValue),
    }),
  });
}

function encodeValue({ name, type, dims }: GraphValue): ValueInfoProto {
  const dim = dims.map((value) =>
    create(TensorShapeProto_DimensionSchema, {
      value:
        typeof value === 'number' ? { case: 'dimValue', value: BigInt(value) } : { case: 'dimParam', value },
    }),
  );
  const tensor = create(TypeProto_TensorSchema, {
    elemType: elementCode(type),
    shape: create(TensorShapeProtoSchema, { dim }),
  });
  const valueType = create(TypeProtoSchema, { value: { case: 'tensorType', value: tensor } });
  return create(ValueInfoProtoSchema, { name, type: valueType });
}

function encodeNode({ op, domain, name, inputs, outputs, attributes }: GraphNode): NodeProto {
  return create(NodeProtoSchema, {
    opType: op,
    name,
    input: [...inputs],
    output: [...outputs],
    attribute: Object.entries(attributes).map(([key, value]) => encodeAttribute(key, value)),
    ...(domain === '' ? {} : { domain }),
  });
}

function encodeAttribute(name: string, attribute: Attribute): AttributeProto {
  switch (attribute.kind) {
    case 'float':
      return create(AttributeProtoSchema, { name, type: 1, f: attribute.value });
    case 'int':
      return create(AttributeProtoSchema, { name, type: 2, i: BigInt(attribute.value) });
    case 'string':
      return create(AttributeProtoSchema, {
        name,
        type: 3,
        s: new TextEncoder().encode(attribute.value),
      });
    case 'tensor':
      return create(AttributeProtoSchema, { name, type: 4, t: encodeTensor('', attribute.value) });
    case 'floats':
      return create(AttributeProtoSchema, { name, type: 6, floats: [...attribute.value] });
    case 'ints':
      return create(AttributeProtoSchema, { name, type: 7, ints: attribute.value.map(BigInt) });
  }
}
