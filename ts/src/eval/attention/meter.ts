import { dirname } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { floatToHalf } from '../../data/half.ts';
import { CidError } from '../../native/errors.ts';
import { encodeModel } from '../../onnx/model.ts';
import { type ModelProto, type NodeProto, NodeProtoSchema } from '../../onnx/onnx_pb.ts';
import { openSession, type Session, type SessionOptions } from '../../onnx/session.ts';
import type { OnnxTensor } from '../../onnx/tensor.ts';
import { spread } from '../statistics.ts';
import { exposeValues } from './expose.ts';
import { type AttentionSite, findAttention, hiddenAttention } from './find.ts';
import { type Layout, type LayoutOptions, layoutOf, patchesOf } from './layout.ts';
import { type MeasureOptions, MeasureWriter, type ProbabilityType } from './measure.ts';
import type { ModelSource } from './source.ts';

export interface AttentionOptions extends LayoutOptions, MeasureOptions {}

/** How one layer attends, over all images. */
export interface AttentionLayer extends Layout {
  /** Node that makes the probabilities. */
  readonly node: string;
  /** [heads] mean distance of what is attended to, in pixels: mean over queries of Σ A·D, over patches alone. */
  readonly distance: readonly number[];
  /** [heads] mean entropy of a query's attention, in nats, from 0 to ln(tokens). */
  readonly entropy: readonly number[];
  /** Mean Kullback-Leibler divergence of the attention of two different heads for the same query, in nats; null with one head. */
  readonly divergence: number | null;
  /** Standard deviation over the heads (divisor heads − 1): small where heads do the same. */
  readonly spread: { readonly distance: number; readonly entropy: number };
}

/** A softmax between two products that is no attention between the places of an image, and why. */
export interface SkippedSite {
  readonly node: string;
  readonly reason: string;
}

/** Bytes that the probabilities of a layer may take in float64; images of a run are chosen for it. */
const LAYER_BYTES = 64 << 20;

/**
 * A model that gives, beside the outputs asked for, how each of its layers attends, summed up over the runs. The measures are computed where
 * the probabilities are made; see {@link MeasureWriter}.
 */
export class AttentionMeter {
  readonly skipped: readonly SkippedSite[];
  /** Images of a run at most. */
  readonly batchSize: number;
  readonly #source: ModelSource;
  readonly #session: Session;
  readonly #layers: readonly MeteredLayer[];

  private constructor(
    source: ModelSource,
    session: Session,
    layers: readonly MeteredLayer[],
    skipped: readonly SkippedSite[],
  ) {
    this.#source = source;
    this.#session = session;
    this.#layers = layers;
    this.skipped = skipped;
    const largest = Math.max(
      1,
      ...layers.map(({ layout: { heads, tokens, windows } }) => 8 * windows * heads * tokens * tokens),
    );
    this.batchSize = source.batch ?? Math.max(1, Math.floor(LAYER_BYTES / largest));
  }

  /**
   * @param outputs Outputs of the model to give as they are.
   *
   * Fails with MODEL_UNSUPPORTED where attention is fused (see `findAttention`), or where there is some but none between the places of an
   * image, with the reasons. A model without any has no layers.
   */
  static async open(
    source: ModelSource,
    outputs: readonly string[],
    options: AttentionOptions,
    session: SessionOptions,
  ): Promise<AttentionMeter> {
    const { model, input, path } = source;
    const sites = findAttention(model, input, path);
    const { layers, skipped } = await placeSites(source, sites, options, session);
    if (sites.length > 0 && layers.length === 0) {
      const [first] = skipped;
      throw new CidError(
        'MODEL_UNSUPPORTED',
        `None of the ${sites.length} attention layers of ${path} can be measured. ${first!.node}: ${first!.reason}`,
      );
    }
    const writer = new MeasureWriter(options);
    // ONNX Runtime begins with the node that comes last. So that it measures a layer before it goes on, the first comes last.
    const metered = layers
      .toReversed()
      .map(({ site, layout, type }) => ({
        site,
        layout,
        measures: writer.layer(site.value, type, layout),
        sums: new Sums(layout.heads),
      }))
      .reverse();
    const values = metered.map(({ measures }) => measures);
    const opened = await open(source, exposeValues(model, [...values, ...outputs], writer), session);
    return new AttentionMeter(source, opened, metered, [...hiddenAttention(model, input), ...skipped]);
  }

  /** Tokens before the patches, in the first layer that is measured; 0 where there is none. */
  get classTokens(): number {
    return this.#layers[0]?.layout.classTokens ?? 0;
  }

  /**
   * Runs images and adds up how they are attended to. Gives the outputs asked for when the meter was opened.
   *
   * @param pixels [count, 3, size, size]; count is at most `batchSize`.
   */
  async run(pixels: Float32Array, count: number): Promise<Record<string, OnnxTensor>> {
    const { batch } = this.#source;
    const rows = batch ?? count;
    const results = await runImages(this.#source, this.#session, pixels, rows);
    for (const { layout, measures, sums } of this.#layers) {
      sums.add(results[measures]!.data as Float64Array, count * layout.windows);
      delete results[measures];
    }
    return results;
  }

  /** What the images so far have given, layer by layer. */
  results(): AttentionLayer[] {
    return this.#layers.map(({ site, layout, sums }) => ({ node: site.node, ...layout, ...sums.means() }));
  }

  dispose(): Promise<void> {
    return this.#session.dispose();
  }
}

interface MeteredLayer {
  readonly site: AttentionSite;
  readonly layout: Layout;
  /** Value that the measures are in. */
  readonly measures: string;
  readonly sums: Sums;
}

interface PlacedSite {
  readonly site: AttentionSite;
  readonly layout: Layout;
  readonly type: ProbabilityType;
}

/** Runs one image to see the shapes of all probabilities, and what they are between. */
async function placeSites(
  source: ModelSource,
  sites: readonly AttentionSite[],
  options: AttentionOptions,
  session: SessionOptions,
): Promise<{ layers: PlacedSite[]; skipped: SkippedSite[] }> {
  const layers: PlacedSite[] = [];
  const skipped: SkippedSite[] = [];
  if (sites.length === 0) return { layers, skipped };
  const shapes = sites.map(
    ({ value }, i): NodeProto =>
      create(NodeProtoSchema, { opType: 'Shape', input: [value], output: [`clip_cid/shape_${i}`] }),
  );
  const names = shapes.map(({ output }) => output[0]!);
  const values = sites.map(({ value }) => value);
  const probe = await open(
    source,
    exposeValues(source.model, [...values, ...names], { nodes: shapes }),
    session,
  );
  try {
    const { imageSize } = source.preprocessing;
    const images = source.batch ?? 1;
    const pixels = new Float32Array(images * 3 * imageSize ** 2);
    // The probabilities themselves stay inside: those of all layers can be large.
    const results = await runImages(source, probe, pixels, images, names);
    const patches = patchesOf(source.model, source.input, imageSize);
    for (const [i, site] of sites.entries()) {
      const dims = Array.from(results[names[i]!]!.data as BigInt64Array, Number);
      const { type } = probe.outputs[i]!;
      const last = site.axis === -1 || site.axis === dims.length - 1;
      const layout = last
        ? layoutOf(dims, images, imageSize, patches, options)
        : `its softmax is over axis ${site.axis} of [${dims.join(', ')}], not over the keys`;
      if (typeof layout === 'string') skipped.push({ node: site.node, reason: layout });
      else layers.push({ site, layout, type: type as ProbabilityType });
    }
  } finally {
    await probe.dispose();
  }
  return { layers, skipped };
}

function open({ path }: ModelSource, model: ModelProto, session: SessionOptions): Promise<Session> {
  return openSession(encodeModel(model), { ...session, dataFolder: dirname(path) });
}

/** Pixels beyond those given are blank. */
async function runImages(
  { input, inputType, preprocessing }: ModelSource,
  session: Session,
  pixels: Float32Array,
  rows: number,
  outputs?: readonly string[],
): Promise<Record<string, OnnxTensor>> {
  const dims = [rows, 3, preprocessing.imageSize, preprocessing.imageSize];
  const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
  data.set(pixels);
  const tensor: OnnxTensor =
    inputType === 'float16'
      ? { type: 'float16', dims, data: floatToHalf(data) }
      : { type: 'float32', dims, data };
  return session.run({ [input]: tensor }, { transfer: true, ...(outputs && { outputs }) });
}

/** Sums of a layer's measures, as {@link MeasureWriter.layer} gives them, over images and windows. */
class Sums {
  readonly #heads: number;
  /** [heads, heads + 2]. */
  readonly #sums: Float64Array;
  #rows = 0;

  constructor(heads: number) {
    this.#heads = heads;
    this.#sums = new Float64Array(heads * (heads + 2));
  }

  add(measures: Float64Array, rows: number): void {
    const width = this.#sums.length;
    for (let i = 0; i < rows * width; i++) this.#sums[i % width]! += measures[i]!;
    this.#rows += rows;
  }

  means(): Pick<AttentionLayer, 'distance' | 'entropy' | 'divergence' | 'spread'> {
    const heads = this.#heads;
    const mean = (head: number, column: number) => this.#sums[head * (heads + 2) + column]! / this.#rows;
    const all = Array.from({ length: heads }, (_, head) => head);
    const distance = all.map((head) => mean(head, heads));
    const entropy = all.map((head) => mean(head, heads + 1));
    let divergence = 0;
    for (const head of all) for (const other of all) divergence += mean(head, other) - mean(head, head);
    return {
      distance,
      entropy,
      divergence: heads > 1 ? divergence / (heads * (heads - 1)) : null,
      spread: { distance: spread(distance).deviation, entropy: spread(entropy).deviation },
    };
  }
}
