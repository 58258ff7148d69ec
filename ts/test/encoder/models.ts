import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { floatToHalf } from '../../src/data/half.ts';
import { tokenizerConfig, trainTokenizer } from '../../src/encoder/bpe.ts';
import { encodeModel } from '../../src/onnx/model.ts';
import {
  ModelProtoSchema,
  type NodeProtoSchema,
  type TensorProtoSchema,
  type ValueInfoProtoSchema,
} from '../../src/onnx/onnx_pb.ts';
import { bytesOf, type ElementType, elementCode } from '../../src/onnx/tensor.ts';

/** Sizes of the models here. */
export const SIZE = 6;
export const DIM = 4;
export const CONTEXT = 8;
const WIDTH = 3 * SIZE * SIZE;

export const tokenizerJson = trainTokenizer(['a red cat', 'a blue cat', 'a red dog'], { vocabSize: 520 });
export const VOCABULARY = Object.keys((tokenizerJson.model as { vocab: object }).vocab).length;
export const END = VOCABULARY - 1;

/** Weight [i, d] of the image model, and of the text model's embedding; float16 holds them exactly. */
export const imageWeight = (i: number, d: number) => (((i * 7 + d * 3) % 11) - 5) / 16;
export const textWeight = (i: number, d: number) => (((i * 5 + d * 13) % 17) - 8) / 16;

type Node = MessageInitShape<typeof NodeProtoSchema>;
type Value = MessageInitShape<typeof ValueInfoProtoSchema>;
type Tensor = MessageInitShape<typeof TensorProtoSchema>;

export interface ModelShape {
  /** Type of pixels, weights and embeddings. */
  float?: 'float32' | 'float16';
  ids?: 'int64' | 'int32';
  mask?: boolean;
  /** Rows of a run that the model fixes. */
  batch?: number;
  size?: number;
  rename?: Record<string, string>;
  dim?: number;
  /** Rows of the token embedding. */
  vocabulary?: number;
  extraInput?: string;
  extraOutput?: string;
}

function value(name: string, type: ElementType, dims: readonly (number | string)[]): Value {
  const dim = dims.map((d) => ({
    value:
      typeof d === 'number'
        ? { case: 'dimValue' as const, value: BigInt(d) }
        : { case: 'dimParam' as const, value: d },
  }));
  return {
    name,
    type: { value: { case: 'tensorType', value: { elemType: elementCode(type), shape: { dim } } } },
  };
}

function weights(
  name: string,
  float: 'float32' | 'float16',
  dims: number[],
  of: (i: number, d: number) => number,
): Tensor {
  const data = Float32Array.from({ length: dims[0] * dims[1] }, (_, k) =>
    of(Math.floor(k / dims[1]), k % dims[1]),
  );
  const raw = bytesOf(float === 'float16' ? floatToHalf(data) : data) as Uint8Array<ArrayBuffer>;
  return { name, dataType: elementCode(float), dims: dims.map(BigInt), rawData: raw };
}

function ints(name: string, values: number[]): Tensor {
  const rawData = bytesOf(BigInt64Array.from(values, BigInt)) as Uint8Array<ArrayBuffer>;
  return { name, dataType: elementCode('int64'), dims: [BigInt(values.length)], rawData };
}

/**
 * An image model (pixels · W), a text model (sum of the tokens' embeddings, those that the mask leaves), or both in one file.
 */
export function tinyModel(parts: readonly ('image' | 'text')[], shape: ModelShape = {}): Uint8Array {
  const { float = 'float32', ids = 'int64', mask = true, size = SIZE, dim = DIM } = shape;
  const { rename = {}, vocabulary = VOCABULARY } = shape;
  const named = (name: string) => rename[name] ?? name;
  const batch = shape.batch ?? 'batch';
  const node: Node[] = [];
  const initializer: Tensor[] = [];
  const input: Value[] = [];
  const output: Value[] = [];
  if (parts.includes('image')) {
    input.push(value(named('pixel_values'), float, [batch, 3, size, size]));
    output.push(value(named('image_embeds'), float, [batch, dim]));
    initializer.push(weights('w', float, [3 * size * size, dim], imageWeight));
    node.push({ opType: 'Flatten', input: [named('pixel_values')], output: ['flat'] });
    node.push({ opType: 'MatMul', input: ['flat', 'w'], output: [named('image_embeds')] });
  }
  if (parts.includes('text')) {
    const texts = parts.length > 1 ? 'text_batch' : batch;
    input.push(value(named('input_ids'), ids, [texts, 'sequence']));
    output.push(value(named('text_embeds'), float, [texts, dim]));
    initializer.push(weights('e', float, [vocabulary, dim], textWeight), ints('one', [1]), ints('two', [2]));
    node.push({ opType: 'Gather', input: ['e', named('input_ids')], output: ['tokens'] });
    if (mask) {
      input.push(value(named('attention_mask'), ids, [texts, 'sequence']));
      node.push({
        opType: 'Cast',
        input: [named('attention_mask')],
        output: ['mask'],
        attribute: [{ name: 'to', type: 2, i: BigInt(elementCode(float)) }],
      });
      node.push({ opType: 'Unsqueeze', input: ['mask', 'two'], output: ['mask3'] });
      node.push({ opType: 'Mul', input: ['tokens', 'mask3'], output: ['kept'] });
    }
    node.push({
      opType: 'ReduceSum',
      input: [mask ? 'kept' : 'tokens', 'one'],
      output: [named('text_embeds')],
      attribute: [{ name: 'keepdims', type: 2, i: 0n }],
    });
  }
  if (shape.extraInput) input.push(value(shape.extraInput, 'float32', ['n']));
  if (shape.extraOutput) {
    output.push(value(shape.extraOutput, float, [batch, dim]));
    node.push({ opType: 'Identity', input: [output[0].name!], output: [shape.extraOutput] });
  }
  return encodeModel(
    create(ModelProtoSchema, {
      irVersion: 8n,
      opsetImport: [{ domain: '', version: 13n }],
      graph: { name: 'tiny', node, initializer, input, output },
    }),
  );
}

export interface FolderFiles {
  vision?: Uint8Array | string | null;
  text?: Uint8Array | string | null;
  both?: Uint8Array | string | null;
  config?: unknown;
  preprocessor?: unknown;
  tokenizer?: unknown;
  tokenizerConfig?: unknown;
}

/** Writes a model folder of tiny models; `null` leaves a file out. */
export async function writeModelFolder(folder: string, files: FolderFiles = {}): Promise<string> {
  await mkdir(join(folder, 'onnx'), { recursive: true });
  const contents: Record<string, unknown> = {
    'onnx/vision_model.onnx': files.vision === undefined ? tinyModel(['image']) : files.vision,
    'onnx/text_model.onnx': files.text === undefined ? tinyModel(['text']) : files.text,
    'onnx/model.onnx': files.both ?? null,
    'config.json': files.config === undefined ? config() : files.config,
    'preprocessor_config.json': files.preprocessor === undefined ? preprocessor() : files.preprocessor,
    'tokenizer.json': files.tokenizer === undefined ? tokenizerJson : files.tokenizer,
    'tokenizer_config.json':
      files.tokenizerConfig === undefined ? tokenizerConfig(CONTEXT) : files.tokenizerConfig,
  };
  for (const [name, content] of Object.entries(contents)) {
    if (content === null) continue;
    const bytes =
      content instanceof Uint8Array || typeof content === 'string' ? content : JSON.stringify(content);
    await writeFile(join(folder, name), bytes);
  }
  return folder;
}

export function config(text: Record<string, unknown> = {}, more: Record<string, unknown> = {}) {
  return {
    model_type: 'clip',
    text_config: { vocab_size: VOCABULARY, max_position_embeddings: CONTEXT, eos_token_id: END, ...text },
    vision_config: { image_size: SIZE },
    ...more,
  };
}

export function preprocessor(more: Record<string, unknown> = {}) {
  return { size: { shortest_edge: SIZE }, crop_size: { height: SIZE, width: SIZE }, resample: 3, ...more };
}

/** What the image model gives for one image's pixels [3, SIZE, SIZE]. */
export function imageReference(pixels: Float32Array): Float32Array {
  return Float32Array.from({ length: DIM }, (_, d) => {
    let sum = 0;
    for (let i = 0; i < WIDTH; i++) sum += pixels[i] * imageWeight(i, d);
    return sum;
  });
}

/** What the text model gives for ids. */
export function textReference(ids: readonly number[]): number[] {
  return Array.from({ length: DIM }, (_, d) => ids.reduce((sum, id) => sum + textWeight(id, d), 0));
}
