import { type Dataset, type Item, openDataset } from '../data/dataset.ts';
import { type Encoder, openEncoder } from '../encoder/encoder.ts';
import type { Matrix } from '../kernels/rows.ts';
import { expectObject } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { type Embedded, embedData } from './embed.ts';
import { summariseModel } from './model.ts';
import { linearProbe } from './probe.ts';
import { imageImageRetrieval, imageTextRetrieval } from './retrieval.ts';
import { classOf, conceptField, domainField, expectMeasurable, planOf } from './tasks.ts';
import type {
  EvaluateOptions,
  EvaluateResult,
  ImageImageResult,
  ImageTextResult,
  LinearProbeResult,
  ZeroShotResult,
} from './types.ts';
import { matrix } from './vectors.ts';
import { classEmbeddings, zeroShot } from './zero-shot.ts';

/**
 * Measures a model on a data set: see {@link EvaluationTask}. Rows are ranked exactly, ties going to the smaller index, so the
 * numbers follow from the embeddings alone.
 *
 * @throws TypeError, RangeError for options; CidError for models and data, among them INVALID_DATA when a task that was asked for finds
 * nothing to measure.
 *
 * @example
 * const { zeroShot } = await evaluate({ model: 'student', data: 'heldout.jsonl', labels: ['category'] });
 */
export async function evaluate(options: EvaluateOptions): Promise<EvaluateResult> {
  const started = performance.now();
  expectObject('options', options, OPTIONS);
  const disposables: { dispose(): Promise<void> }[] = [];
  const opened = async <T extends { dispose(): Promise<void> }>(opening: Promise<T>) => {
    const resource = await opening;
    disposables.push(resource);
    return resource;
  };
  try {
    const data = await openData(options.data, options, opened);
    const train = options.train === undefined ? undefined : await openData(options.train, options, opened);
    expectMeasurable(data, train, options);
    const { threads } = options;
    const encoder =
      typeof options.model === 'string'
        ? await opened(
            openEncoder(options.model, { ...options.encoder, ...(threads === undefined ? {} : { threads }) }),
          )
        : options.model;
    const results = await new Evaluation(options, encoder, data, train).run();
    return { ...results, seconds: (performance.now() - started) / 1000 };
  } finally {
    for (const resource of disposables.reverse()) await resource.dispose();
  }
}

function openData(
  source: string | Dataset,
  { imageField, captionField }: Pick<EvaluateOptions, 'imageField' | 'captionField'>,
  opened: (opening: Promise<Dataset>) => Promise<Dataset>,
): Promise<Dataset> | Dataset {
  if (typeof source !== 'string') return source;
  const fields = {
    ...(imageField === undefined ? {} : { imageField }),
    ...(captionField === undefined ? {} : { captionField }),
  };
  return opened(openDataset(source, { captions: false, ...fields }));
}

class Evaluation {
  readonly #options: EvaluateOptions;
  readonly #encoder: Encoder;
  readonly #data: Dataset;
  readonly #train: Dataset | undefined;

  constructor(options: EvaluateOptions, encoder: Encoder, data: Dataset, train: Dataset | undefined) {
    this.#options = options;
    this.#encoder = encoder;
    this.#data = data;
    this.#train = train;
  }

  async run(): Promise<Omit<EvaluateResult, 'seconds'>> {
    const { seed, captionsPerImage } = this.#options;
    const data = await this.#embed(this.#data, 'embed images');
    // Images that cannot be decoded are left out, and with them perhaps all that a task needs.
    const { fields, wanted } = planOf(
      data.items,
      this.#data.source,
      this.#train !== undefined,
      this.#options,
    );

    const seen = wanted('linear-probe') || wanted('image-text');
    const train = this.#train && seen ? await this.#embed(this.#train, 'embed train images') : undefined;
    const zero: Record<string, ZeroShotResult> = {};
    if (wanted('zero-shot')) for (const field of fields) zero[field] = await this.#zeroShot(data, field);
    const text: { data?: ImageTextResult; train?: ImageTextResult } = {};
    if (wanted('image-text')) {
      text.data = withNote(await this.#imageText(data, captionsPerImage), this.#unseen(data, train));
      if (train?.items.some(hasCaption)) text.train = await this.#imageText(train, captionsPerImage);
    }
    const image = wanted('image-image') ? await this.#imageImage(data) : undefined;
    const probe: Record<string, LinearProbeResult> = {};
    if (wanted('linear-probe')) {
      for (const field of this.#options.probeLabels ?? fields) {
        probe[field] = await this.#probe(data, train!, field, seed);
      }
    }
    return {
      model: await summariseModel(this.#encoder, this.#options.encoder),
      data: { ...data.summary, ...(this.#train && { seen: countShared(this.#data, this.#train) }) },
      ...(train ? { train: train.summary } : {}),
      ...(wanted('zero-shot') ? { zeroShot: zero } : {}),
      ...(wanted('image-text') ? { imageText: text } : {}),
      ...(image ? { imageImage: image } : {}),
      ...(wanted('linear-probe') ? { linearProbe: probe } : {}),
    };
  }

  get #kernel() {
    const { device, threads, signal } = this.#options;
    return {
      ...(device === undefined ? {} : { device }),
      ...(threads === undefined ? {} : { threads }),
      ...(signal === undefined ? {} : { signal }),
    };
  }

  get #concept() {
    return conceptField(this.#options);
  }

  #embed(dataset: Dataset, label: string): Promise<Embedded> {
    const { signal, onProgress } = this.#options;
    return embedData(this.#encoder, dataset, label, { signal, onProgress });
  }

  /** Classes of a field, in the order that labels count in. */
  #classes(field: string, items: readonly Item[]): readonly string[] {
    const given = this.#options.classes?.[field];
    if (given) return given;
    const all = [...items];
    if (this.#train) for (let i = 0; i < this.#train.length; i++) all.push(this.#train.item(i));
    return [
      ...new Set(all.map((item) => classOf(item, field)).filter((value) => value !== undefined)),
    ].sort();
  }

  async #zeroShot(data: Embedded, field: string): Promise<ZeroShotResult> {
    const names = this.#classes(field, data.items);
    const { images, labels } = labelled(data, field, names);
    const classes = await classEmbeddings(this.#encoder, names, this.#options.templates);
    return zeroShot({ images, labels, classes, names, ...this.#kernel });
  }

  async #imageText({ images, items }: Embedded, most = Number.POSITIVE_INFINITY): Promise<ImageTextResult> {
    const index = new Map<string, number>();
    const captions = items.map((item) =>
      item.captions.slice(0, most).map((caption) => {
        if (!index.has(caption)) index.set(caption, index.size);
        return index.get(caption)!;
      }),
    );
    const texts = matrix(await this.#encoder.embedTexts([...index.keys()]), this.#encoder.dim);
    return imageTextRetrieval(images, texts, captions, this.#kernel);
  }

  /** True where no image of `data` shows a concept of `train`. */
  #unseen(data: Embedded, train: Embedded | undefined): boolean {
    if (!train) return false;
    const concepts = ({ items }: Embedded) =>
      items.map((item) => classOf(item, this.#concept)).filter((value) => value !== undefined);
    const known = new Set(concepts(train));
    const own = concepts(data);
    return known.size > 0 && own.length > 0 && own.every((concept) => !known.has(concept));
  }

  #imageImage({ images, items }: Embedded): Promise<ImageImageResult> {
    const domain = domainField(this.#options);
    return imageImageRetrieval(
      images,
      items.map((item) => classOf(item, this.#concept)),
      items.map((item) => classOf(item, domain)),
      this.#kernel,
    );
  }

  async #probe(data: Embedded, train: Embedded, field: string, seed = 0): Promise<LinearProbeResult> {
    const names = [
      ...new Set(train.items.map((item) => classOf(item, field)).filter((value) => value !== undefined)),
    ].sort();
    const fit = labelled(train, field, names);
    const test = labelled(data, field, names, true);
    const { probeGrid, signal, onProgress } = this.#options;
    onProgress?.({ label: `linear probe (${field})`, done: 0, total: 1 });
    const result = await linearProbe({
      train: fit.images,
      trainLabels: fit.labels,
      test: test.images,
      testLabels: test.labels,
      classes: names,
      groups: fit.items.map((item) => classOf(item, this.#concept) ?? item.key),
      seed,
      ...(probeGrid === undefined ? {} : { grid: probeGrid }),
      ...(signal === undefined ? {} : { signal }),
    });
    onProgress?.({ label: `linear probe (${field})`, done: 1, total: 1 });
    return result;
  }
}

/** Images of a data set that are in another one too: the same file, or the same part of the same tar. */
function countShared(data: Dataset, other: Dataset): number {
  const known = new Set(Array.from({ length: other.length }, (_, i) => other.location(i)));
  let count = 0;
  for (let i = 0; i < data.length; i++) if (known.has(data.location(i))) count++;
  return count;
}

const hasCaption = (item: Item) => item.captions.length > 0;

function withNote(result: ImageTextResult, unseen: boolean): ImageTextResult {
  if (!unseen) return result;
  return {
    ...result,
    note:
      'No concept of these images is in the training data: their names can hardly be known to the model, and recall is near ' +
      'chance. Compare models on the seen concepts instead.',
  };
}

/** The rows that have a class in `field`, with its number. */
function labelled(
  { images, items }: Embedded,
  field: string,
  names: readonly string[],
  training = false,
): { images: Matrix; labels: Int32Array; items: Item[] } {
  const numbers = new Map(names.map((name, i) => [name, i]));
  const rows = items.flatMap((item, row) => (classOf(item, field) === undefined ? [] : [row]));
  if (rows.length === 0) throw new CidError('INVALID_DATA', `No item has the field '${field}'`);
  const { dim } = images;
  const data = new Float32Array(rows.length * dim);
  const labels = new Int32Array(rows.length);
  rows.forEach((row, i) => {
    const name = classOf(items[row]!, field)!;
    const label = numbers.get(name);
    if (label === undefined) {
      throw new CidError(
        'INVALID_DATA',
        training
          ? `The linear probe has no training image of class '${name}' of '${field}', which ${items[row]!.key} has`
          : `${items[row]!.key} has the class '${name}' in '${field}', which is not among the given classes`,
      );
    }
    labels[i] = label;
    data.set((images.data as Float32Array).subarray(row * dim, (row + 1) * dim), i * dim);
  });
  return { images: matrix(data, dim), labels, items: rows.map((row) => items[row]!) };
}

const OPTIONS = Object.keys({
  model: true,
  data: true,
  train: true,
  imageField: true,
  captionField: true,
  tasks: true,
  labels: true,
  classes: true,
  templates: true,
  concept: true,
  domain: true,
  captionsPerImage: true,
  probeGrid: true,
  probeLabels: true,
  seed: true,
  device: true,
  threads: true,
  encoder: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof EvaluateOptions, true>);
