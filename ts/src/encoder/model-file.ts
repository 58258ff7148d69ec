import { floatToHalf, halfToFloat } from '../data/half.ts';
import { CidError } from '../native/errors.ts';
import { openSession, type Session, type SessionOptions, type SessionValue } from '../onnx/session.ts';
import type { OnnxTensor } from '../onnx/tensor.ts';

export type Modality = 'image' | 'text';

const OUTPUTS: Readonly<Record<Modality, string>> = { image: 'image_embeds', text: 'text_embeds' };
/** Features before the projection: of the right shape, but in no common space. */
const NOT_EMBEDDINGS = ['pooler_output', 'last_hidden_state'];

/** Rows of one modality as the model takes them: pixels [n, 3, S, S], or token ids and mask [n, T]. */
export interface ModelInput {
  readonly pixels?: Float32Array;
  readonly inputIds?: Int32Array;
  readonly attentionMask?: Int32Array;
}

/** Sizes of one row. */
export interface InputSizes {
  readonly imageSize: number;
  readonly contextLength: number;
}

/** An ONNX file with the image tower, the text tower or both, and which of its inputs and outputs are which. */
export class ModelFile {
  readonly path: string;
  readonly #session: Session;
  /** Name of the output of images, where one is asked for. */
  readonly #imageOutput: string | undefined;
  readonly #pixels: SessionValue | undefined;
  readonly #inputIds: SessionValue | undefined;
  readonly #attentionMask: SessionValue | undefined;

  private constructor(path: string, session: Session, imageOutput: string | undefined) {
    const { inputs } = session;
    this.path = path;
    this.#session = session;
    this.#imageOutput = imageOutput;
    this.#pixels = inputs.find(({ name }) => name === 'pixel_values') ?? only(inputs.filter(isPixels));
    this.#attentionMask = inputs.find(({ name }) => name === 'attention_mask');
    const integers = inputs.filter(({ name, type }) => isInteger(type) && name !== 'attention_mask');
    this.#inputIds = inputs.find(({ name }) => name === 'input_ids') ?? only(integers);
    const known = [this.#pixels, this.#inputIds, this.#attentionMask];
    const unknown = inputs.find((input) => !known.includes(input));
    if (unknown) {
      throw this.#invalid(
        `expected the inputs pixel_values, input_ids and attention_mask but found ${names(inputs)}`,
      );
    }
  }

  /** Fails with MODEL_INVALID when there is no such file, it is no model, or it has inputs that nobody can fill. */
  static async open(
    path: string,
    { imageOutput, ...options }: SessionOptions & { imageOutput?: string },
  ): Promise<ModelFile> {
    const session = await openSession(path, options).catch((error) => {
      if (!(error instanceof CidError) || error.code !== 'FILE_NOT_FOUND') throw error;
      throw new CidError('MODEL_INVALID', error.message, { cause: error });
    });
    try {
      return new ModelFile(path, session, imageOutput);
    } catch (error) {
      await session.dispose();
      throw error;
    }
  }

  /** Sizes that the model fixes; undefined where it leaves them open. */
  get imageSize(): number | undefined {
    return fixed(this.#pixels, 2);
  }
  get contextLength(): number | undefined {
    return fixed(this.#inputIds, 1);
  }

  /** Rows of one run, where the model fixes them. */
  batchSize(modality: Modality): number | undefined {
    return fixed(modality === 'image' ? this.#pixels : this.#inputIds, 0);
  }

  /** Checks input and output of a modality; MODEL_INVALID names what there is instead. */
  check(modality: Modality): void {
    const { inputs } = this.#session;
    const [input, wanted] =
      modality === 'image' ? [this.#pixels, 'pixel_values'] : [this.#inputIds, 'input_ids'];
    if (input === undefined) {
      throw this.#invalid(`expected the input ${wanted} (${modality}s) but found ${names(inputs) || 'none'}`);
    }
    this.#output(modality);
  }

  /** Embeddings [rows, dim] as float32. */
  async embed(modality: Modality, rows: number, input: ModelInput, sizes: InputSizes): Promise<Float32Array> {
    const feeds: Record<string, OnnxTensor> = {};
    // A file with both towers runs them both; the one that is not asked for gets blank rows.
    if (this.#pixels) {
      const n = modality === 'image' ? rows : (this.batchSize('image') ?? 1);
      const dims = [n, 3, sizes.imageSize, sizes.imageSize];
      const pixels = input.pixels ?? new Float32Array(product(dims));
      feeds[this.#pixels.name] = floats(this.#pixels, dims, pixels);
    }
    const n = modality === 'text' ? rows : (this.batchSize('text') ?? 1);
    const dims = [n, sizes.contextLength];
    for (const [value, data, blank] of [
      [this.#inputIds, input.inputIds, 0],
      [this.#attentionMask, input.attentionMask, 1],
    ] as const) {
      if (value) feeds[value.name] = integers(value, dims, data ?? new Int32Array(product(dims)).fill(blank));
    }
    const output = this.#output(modality);
    const result = (await this.#session.run(feeds, { transfer: true }))[output.name];
    if (result.dims.length !== 2 || result.dims[0] !== rows || result.dims[1] < 1) {
      throw this.#invalid(`its output ${output.name} is [${result.dims}] for ${rows} rows, not [rows, dim]`);
    }
    return result.type === 'float16'
      ? halfToFloat(result.data as Uint16Array)
      : (result.data as Float32Array);
  }

  dispose(): Promise<void> {
    return this.#session.dispose();
  }

  /** By its usual name, or the only one that can be meant. */
  #output(modality: Modality): SessionValue {
    const { outputs } = this.#session;
    const asked = modality === 'image' ? this.#imageOutput : undefined;
    const name = asked ?? OUTPUTS[modality];
    const candidates = outputs.filter(
      (output) => output.dims.length === 2 && isFloat(output.type) && !NOT_EMBEDDINGS.includes(output.name),
    );
    const found =
      outputs.find((output) => output.name === name) ?? (asked === undefined ? only(candidates) : undefined);
    if (found !== undefined && isFloat(found.type)) return found;
    const before =
      asked === undefined && outputs.some((output) => NOT_EMBEDDINGS.includes(output.name))
        ? '; these are features before the projection: export the model with its projection'
        : '';
    throw this.#invalid(`expected the output ${name} (float) but found ${names(outputs)}${before}`);
  }

  #invalid(message: string): CidError {
    return new CidError('MODEL_INVALID', `${this.path}: ${message}`);
  }
}

const isFloat = (type: string) => type === 'float32' || type === 'float16';
const isInteger = (type: string) => type === 'int64' || type === 'int32';
const isPixels = ({ type, dims }: SessionValue) => isFloat(type) && dims.length === 4;
const names = (values: readonly SessionValue[]) => values.map(({ name }) => name).join(', ');
const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

function only<T>(values: readonly T[]): T | undefined {
  return values.length === 1 ? values[0] : undefined;
}

function fixed(value: SessionValue | undefined, axis: number): number | undefined {
  const dim = value?.dims[axis];
  return typeof dim === 'number' && dim > 0 ? dim : undefined;
}

function floats({ type }: SessionValue, dims: readonly number[], data: Float32Array): OnnxTensor {
  return type === 'float16' ? { type, dims, data: floatToHalf(data) } : { type: 'float32', dims, data };
}

function integers({ type }: SessionValue, dims: readonly number[], data: Int32Array): OnnxTensor {
  return type === 'int32'
    ? { type, dims, data }
    : { type: 'int64', dims, data: BigInt64Array.from(data, BigInt) };
}
