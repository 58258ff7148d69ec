import { type Dataset, openDataset } from '../data/dataset.ts';
import { halfToFloat } from '../data/half.ts';
import { decodeImage } from '../data/image.ts';
import { openRated, ratedFormat } from '../data/rated/open.ts';
import { preprocessImages } from '../encoder/preprocess.ts';
import { expectInteger, failRange } from '../native/check.ts';
import { threads } from '../native/devices.ts';
import { abortError, CidError } from '../native/errors.ts';
import type { OnnxTensor } from '../onnx/tensor.ts';
import type { OnProgress } from '../run/progress.ts';
import { permutation, Random, streams } from '../student/random.ts';
import {
  type AttentionLayer,
  AttentionMeter,
  type AttentionOptions,
  type SkippedSite,
} from './attention/meter.ts';
import { type ModelSource, type ModelSourceOptions, openModelSource, shapeOf } from './attention/source.ts';
import { type EmbeddingSpread, SpreadMeter } from './collapse.ts';
import type { DataSummary } from './types.ts';

export interface AnalyzeOptions extends AttentionOptions, ModelSourceOptions {
  /** Model folder, or ONNX file, of an image encoder. */
  readonly model: string;
  /** Images: what `openDataset` or `openRated` takes, or a data set that is open; the caller disposes of that. */
  readonly data: string | Dataset;
  /** Images to look at, drawn by seed; at least 2. Defaults to 1000, or all where there are fewer. */
  readonly images?: number;
  /** Defaults to 0. */
  readonly seed?: number;
  /** Output that holds the embeddings. Defaults to 'image_embeds', else 'pooler_output', else the only output that can be meant. */
  readonly output?: string;
  /** Field of a list that names the image; defaults to the first there is of 'image', 'path', 'file', … */
  readonly imageField?: string;
  /** Execution providers of ONNX Runtime in order of preference. Defaults to ['cpu']. */
  readonly providers?: readonly string[];
  /** Defaults to the process's number. */
  readonly threads?: number;
  /** Stops the work soon after it aborts; the call then rejects with a CidError ABORTED. Defaults to none. */
  readonly signal?: AbortSignal;
  /** Told how far it is. Defaults to none. */
  readonly onProgress?: OnProgress;
}

/** What an image encoder looks at, and how much of its space it uses. */
export interface ModelAnalysis {
  /** ONNX file. */
  readonly model: string;
  readonly data: DataSummary;
  readonly imageSize: number;
  /** Layers in the order of the graph; none for a model without attention. */
  readonly attention: readonly AttentionLayer[];
  readonly skipped: readonly SkippedSite[];
  /** What the distances and entropies are taken over. */
  readonly definitions: Required<Pick<AttentionOptions, 'renormalize' | 'entropyOf'>>;
  readonly embeddings: EmbeddingSpread & { readonly output: string };
  /** What was assumed, in sentences. */
  readonly notes: readonly string[];
  readonly seconds: number;
}

/** Images of a run at most. */
const BATCH = 32;
/** Images between their bytes and the model. */
const IN_FLIGHT = 8;

/**
 * Looks into an image encoder: how far its heads look (attention distance) and how widely (attention entropy), how much heads differ, and
 * whether its embeddings have collapsed (effective rank, mean cosine). Any ViT exported to ONNX with its attention unfused will do; of a
 * model without attention only the embeddings are measured. The definitions are the common ones (Dosovitskiy et al., 2021; Raghu et al.,
 * 2021; Xie et al., 2023); those of the CSKD paper are not published.
 *
 * Images pass a batch at a time; attention probabilities never leave the model.
 *
 * @throws TypeError, RangeError for options; CidError MODEL_INVALID, MODEL_UNSUPPORTED (attention that cannot be read, with how to export),
 * INVALID_DATA when no image can be decoded or an embedding is zero or not finite, ABORTED.
 */
export async function analyzeModel(options: AnalyzeOptions): Promise<ModelAnalysis> {
  const started = performance.now();
  const seed = expectInteger('seed', options.seed ?? 0);
  const wanted = expectInteger('images', options.images ?? 1000, 2);
  checkLayout(options);
  const source = await openModelSource(options.model, {
    ...(options.file === undefined ? {} : { file: options.file }),
    ...(options.imageSize === undefined ? {} : { imageSize: options.imageSize }),
  });
  const output = embeddingOutput(source, options.output);
  const data =
    typeof options.data === 'string' ? await openAnalyzed(options.data, options.imageField) : options.data;
  try {
    const chosen = permutation(data.length, new Random(seed, streams.split)).slice(0, wanted).sort();
    const meter = await AttentionMeter.open(source, [output], options, {
      threads: options.threads ?? threads(),
      ...(options.providers && { providers: options.providers }),
    });
    try {
      const { spread, images } = await run(source, meter, data, chosen, output, options);
      const embeddings = { output, ...(await spread.result()) };
      return {
        model: source.path,
        data: { source: data.source, images, skipped: chosen.length - images },
        imageSize: source.preprocessing.imageSize,
        attention: meter.results(),
        skipped: meter.skipped,
        definitions: { renormalize: options.renormalize ?? false, entropyOf: options.entropyOf ?? 'all' },
        embeddings,
        notes: source.notes,
        seconds: (performance.now() - started) / 1000,
      };
    } finally {
      await meter.dispose();
    }
  } finally {
    if (typeof options.data === 'string') await data.dispose();
  }
}

function checkLayout({ grid, classTokens, heads }: AnalyzeOptions): void {
  if (grid !== undefined) {
    if (grid.length !== 2) failRange('rows and columns', 'grid', grid);
    for (const side of grid) expectInteger('grid', side, 1);
  }
  if (classTokens !== undefined) expectInteger('classTokens', classTokens);
  if (heads !== undefined) expectInteger('heads', heads, 1);
}

/** The images of a source. Ratings do not matter here, but data sets that have them know where the images are. */
export async function openAnalyzed(source: string, imageField?: string): Promise<Dataset> {
  const format = await ratedFormat(source);
  if (format !== undefined && format !== 'list') return openRated(source);
  return openDataset(source, { captions: false, ...(imageField === undefined ? {} : { imageField }) });
}

const USUAL_OUTPUTS = ['image_embeds', 'pooler_output'];

function embeddingOutput({ model, path }: ModelSource, named: string | undefined): string {
  const outputs = model.graph!.output;
  const floats = outputs.filter((value) => ['float32', 'float16'].includes(shapeOf(value).type ?? ''));
  if (named !== undefined) {
    if (floats.some(({ name }) => name === named)) return named;
    throw new CidError(
      'MODEL_INVALID',
      `${path} has no output ${named} of floats; it has ${outputs.map(({ name }) => name).join(', ')}`,
    );
  }
  for (const usual of USUAL_OUTPUTS) if (floats.some(({ name }) => name === usual)) return usual;
  const rank = (wanted: number) => floats.filter((value) => shapeOf(value).dims.length === wanted);
  for (const candidates of [rank(2), rank(3), rank(4)])
    if (candidates.length === 1) return candidates[0]!.name;
  throw new CidError(
    'MODEL_INVALID',
    `${path} has several outputs that could be its embeddings: name one of ${floats.map(({ name }) => name).join(', ') || 'none'} (output)`,
  );
}

async function run(
  source: ModelSource,
  meter: AttentionMeter,
  data: Dataset,
  chosen: Int32Array,
  output: string,
  { signal, onProgress }: AnalyzeOptions,
): Promise<{ spread: SpreadMeter; images: number }> {
  const size = Math.min(BATCH, meter.batchSize);
  const plane = 3 * source.preprocessing.imageSize ** 2;
  const report = (done: number) =>
    onProgress?.({ label: 'analyze', done, total: chosen.length, unit: 'images' });
  let spread: SpreadMeter | undefined;
  let images = 0;
  report(0);
  let next = prepare(source, data, chosen.subarray(0, size));
  for (let from = 0; from < chosen.length; from += size) {
    const pixels = await next;
    if (signal?.aborted) throw abortError();
    // The next images are decoded while the model works on these.
    next = prepare(source, data, chosen.subarray(from + size, from + 2 * size));
    next.catch(() => undefined);
    const count = pixels.length / plane;
    if (count > 0) {
      const results = await meter.run(pixels, count);
      const rows = rowsOf(results[output]!, count, meter.classTokens);
      spread ??= new SpreadMeter(rows.length / count);
      spread.add(rows);
      images += count;
    }
    report(Math.min(from + size, chosen.length));
  }
  if (!spread) throw new CidError('INVALID_DATA', `No image of ${data.source} can be decoded`);
  return { spread, images };
}

/** Pixels of the images that can be read, one after the other. */
async function prepare(
  { preprocessing }: ModelSource,
  data: Dataset,
  indices: Int32Array,
): Promise<Float32Array> {
  const found: (Float32Array | undefined)[] = new Array(indices.length);
  let at = 0;
  const work = async () => {
    while (at < indices.length) {
      const place = at++;
      try {
        const image = await decodeImage(await data.read(indices[place]!));
        found[place] = await preprocessImages([image], preprocessing);
      } catch (error) {
        const broken =
          error instanceof CidError && ['FILE_FORMAT', 'FILE_NOT_FOUND', 'INVALID_DATA'].includes(error.code);
        if (!broken) throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, work));
  const usable = found.filter((pixels) => pixels !== undefined);
  const plane = 3 * preprocessing.imageSize ** 2;
  const pixels = new Float32Array(usable.length * plane);
  for (const [i, part] of usable.entries()) pixels.set(part, i * plane);
  return pixels;
}

/** One row an image: of tokens [n, T, D] the class token, or the mean where there is none; of maps [n, D, H, W] the mean. */
function rowsOf({ type, dims, data }: OnnxTensor, count: number, classTokens: number): Float32Array {
  const values = type === 'float16' ? halfToFloat(data as Uint16Array) : (data as Float32Array);
  const each = values.length / dims[0]!;
  if (dims.length === 2) return values.slice(0, count * each);
  const [places, dim] = dims.length === 3 ? [dims[1]!, dims[2]!] : [each / dims[1]!, dims[1]!];
  const rows = new Float32Array(count * dim);
  for (let i = 0; i < count; i++) {
    const first = dims.length === 3 && classTokens > 0 ? 1 : places;
    for (let place = 0; place < first; place++) {
      for (let k = 0; k < dim; k++) {
        const at = dims.length === 3 ? place * dim + k : k * places + place;
        rows[i * dim + k]! += values[i * each + at]! / first;
      }
    }
  }
  return rows;
}
