import { open, readFile, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, normalize, resolve } from 'node:path';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { CidError } from '../native/errors.ts';
import { AtomicFile, readError, writeFileAtomic } from '../run/files.ts';
import type { AttributeProto, GraphProto, ModelProto, TensorProto } from './onnx_pb.ts';
import { ModelProtoSchema, StringStringEntryProtoSchema, TensorProtoSchema } from './onnx_pb.ts';

/** A protobuf message may not be longer. */
const LARGEST_FILE = 2 ** 31 - 1;
/** Initializers smaller than this stay in the model's own file. */
const SMALLEST_EXTERNAL = 1024;
/** What ONNX recommends, so that the data can be mapped into memory. */
const EXTERNAL_ALIGNMENT = 4096;

/** `MODEL_INVALID` when the bytes are not an ONNX model. Tensors are views of `bytes`. */
export function decodeModel(bytes: Uint8Array, source = 'the given bytes'): ModelProto {
  let model: ModelProto;
  try {
    model = fromBinary(ModelProtoSchema, bytes);
  } catch (error) {
    throw new CidError('MODEL_INVALID', `${source} is not an ONNX model: ${(error as Error).message}`, {
      cause: error,
    });
  }
  // Almost any short text parses as some protobuf message, but not as one with these.
  if (!model.graph || model.opsetImport.length === 0) {
    throw new CidError('MODEL_INVALID', `${source} is not an ONNX model: it has no graph or no operator set`);
  }
  return model;
}

export function encodeModel(model: ModelProto): Uint8Array {
  return toBinary(ModelProtoSchema, model);
}

/**
 * Reads a model with its external data. Fails with `FILE_NOT_FOUND`, `FILE_FORMAT` (cannot be read) or `MODEL_INVALID`, each
 * naming the file.
 */
export async function readModel(path: string): Promise<ModelProto> {
  const model = decodeModel(await readBytes(path), path);
  for (const tensor of tensorsOf(model.graph!)) {
    if (tensor.dataLocation === 1) await readExternal(path, tensor);
  }
  return model;
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw readError(path, error);
  }
}

/** Every tensor of a graph: initializers, attributes, those of subgraphs. */
function* tensorsOf(graph: GraphProto): Generator<TensorProto> {
  yield* graph.initializer;
  for (const node of graph.node) for (const attribute of node.attribute) yield* tensorsOfAttribute(attribute);
}

function* tensorsOfAttribute(attribute: AttributeProto): Generator<TensorProto> {
  if (attribute.t) yield attribute.t;
  yield* attribute.tensors;
  if (attribute.g) yield* tensorsOf(attribute.g);
  for (const graph of attribute.graphs) yield* tensorsOf(graph);
}

async function readExternal(modelPath: string, tensor: TensorProto): Promise<void> {
  const entry = (key: string) => tensor.externalData.find((candidate) => candidate.key === key)?.value;
  const location = entry('location');
  // A model may come from anywhere: it names files in its own folder and nothing else.
  if (location === undefined || isAbsolute(location) || normalize(location).startsWith('..')) {
    throw new CidError(
      'MODEL_INVALID',
      `Tensor '${tensor.name}' of ${modelPath} names no file of the model's folder`,
    );
  }
  const path = resolve(dirname(modelPath), location);
  const offset = Number(entry('offset') ?? 0);
  try {
    const length = Number(entry('length') ?? (await stat(path)).size - offset);
    const bytes = new Uint8Array(length);
    const file = await open(path);
    try {
      let done = 0;
      while (done < length) {
        const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      if (done < length) {
        throw new CidError('FILE_FORMAT', `${path} ends before the data of tensor '${tensor.name}'`);
      }
    } finally {
      await file.close();
    }
    tensor.rawData = bytes;
  } catch (error) {
    throw readError(path, error);
  }
  tensor.dataLocation = 0;
  tensor.externalData = [];
}

export interface WriteModelOptions {
  /** Puts initializers into `<name>.onnx_data` beside the model. Defaults to doing so only when the model is over 2 GB. */
  externalData?: boolean;
}

/** Writes a model whole or not at all; its external data first. Fails with `FILE_WRITE`. */
export async function writeModel(
  path: string,
  model: ModelProto,
  options: WriteModelOptions = {},
): Promise<void> {
  const size = model.graph?.initializer.reduce((sum, tensor) => sum + tensor.rawData.length, 0) ?? 0;
  const external = options.externalData ?? size > LARGEST_FILE * 0.9;
  await writeFileAtomic(path, encodeModel(external ? await writeExternal(path, model) : model));
}

async function writeExternal(path: string, model: ModelProto): Promise<ModelProto> {
  const location = `${basename(path)}_data`;
  const file = await AtomicFile.create(resolve(dirname(path), location));
  const graph = { ...model.graph! };
  let offset = 0;
  try {
    const initializers: TensorProto[] = [];
    for (const tensor of graph.initializer) {
      const { length } = tensor.rawData;
      if (length < SMALLEST_EXTERNAL) {
        initializers.push(tensor);
        continue;
      }
      const padding = (EXTERNAL_ALIGNMENT - (offset % EXTERNAL_ALIGNMENT)) % EXTERNAL_ALIGNMENT;
      if (padding > 0) await file.write(new Uint8Array(padding));
      await file.write(tensor.rawData);
      offset += padding;
      const outside = withoutData(tensor);
      outside.dataLocation = 1;
      outside.externalData = Object.entries({ location, offset: `${offset}`, length: `${length}` }).map(
        ([key, value]) => create(StringStringEntryProtoSchema, { key, value }),
      );
      initializers.push(outside);
      offset += length;
    }
    graph.initializer = initializers;
  } catch (error) {
    await file.abort();
    throw error;
  }
  await file.commit();
  return { ...model, graph };
}

/** A shallow copy, so that the caller's model keeps its values; an absent field is not even an empty one in the file. */
function withoutData(tensor: TensorProto): TensorProto {
  const { rawData: _, ...rest } = tensor;
  return create(TensorProtoSchema, rest as MessageInitShape<typeof TensorProtoSchema>);
}
