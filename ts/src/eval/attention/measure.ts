import { create } from '@bufbuild/protobuf';
import type { NodeProto, TensorProto } from '../../onnx/onnx_pb.ts';
import { AttributeProtoSchema, NodeProtoSchema } from '../../onnx/onnx_pb.ts';
import { elementCode, encodeTensor, type OnnxTensor } from '../../onnx/tensor.ts';
import type { Layout } from './layout.ts';

export interface MeasureOptions {
  /** Distances weigh what goes to patches by their own sum, instead of counting what goes to class tokens as going nowhere. Defaults to false. */
  readonly renormalize?: boolean;
  /** Rows and keys of the entropy: 'all' tokens, or 'patches' alone, their rows brought to sum 1. Defaults to 'all'. */
  readonly entropyOf?: 'all' | 'patches';
}

/**
 * Smallest number over 0 that a type can hold. A probability that was too small for it and became 0 counts as this in a logarithm, which
 * leaves 0 · ln 0 = 0, and keeps divergences finite.
 */
const SMALLEST = { float32: 2 ** -149, float16: 2 ** -24, float64: 2 ** -1074 } as const;

/** Of the names of nodes and constants. */
const PREFIX = 'clip_cid/attention';

export type ProbabilityType = keyof typeof SMALLEST;

/**
 * Writes operators that measure attention where it is made, in float64, so that probabilities never leave the model: they are gone as soon as
 * their layer is done. Only operators that mean the same in every operator set from 8 on are used.
 */
export class MeasureWriter {
  readonly nodes: NodeProto[] = [];
  readonly initializers: TensorProto[] = [];
  readonly #options: MeasureOptions;
  readonly #constants = new Map<string, string>();

  constructor(options: MeasureOptions = {}) {
    this.#options = options;
  }

  /**
   * Measures one layer; `value` holds its probabilities, of the type given. All measures are one value, float64 [rows, heads, heads + 2] with a
   * row an image or window: of each head the mean over the queries of −Σ_k A_h ln A_h′ for every head h′, its mean distance, its mean entropy.
   * With a value for each, ONNX Runtime would put some off until it holds the probabilities of all layers.
   */
  layer(value: string, type: ProbabilityType, layout: Layout): string {
    const { heads, tokens } = layout;
    const wide = this.#op('Cast', [value], { to: elementCode('float64') });
    const a = this.#reshape(wide, [-1, heads, tokens, tokens]);
    const smallest = this.#constant(`smallest ${type}`, [], () => Float64Array.of(SMALLEST[type]));
    const logs = this.#op('Log', [this.#op('Max', [a, smallest])]);
    const flat = (x: string) => this.#reshape(x, [0, heads, tokens * tokens]);
    const turned = this.#op('Transpose', [flat(logs)], { perm: [0, 2, 1] });
    const scale = this.#constant(`minus ${tokens}`, [], () => Float64Array.of(-1 / tokens));
    const cross = this.#op('Mul', [this.#op('MatMul', [flat(a), turned]), scale]);
    const distance = this.#distance(a, layout);
    const entropy = this.#entropy(a, this.#op('Mul', [a, logs]), layout);
    return this.#op('Concat', [cross, distance, entropy], { axis: 2 });
  }

  #distance(a: string, layout: Layout): string {
    const { heads, tokens, classTokens, grid, cell } = layout;
    const key = `${tokens} ${classTokens} ${grid} ${cell}`;
    if (!this.#options.renormalize) {
      const mean = this.#constant(`mean distance ${key}`, [tokens * tokens, 1], () =>
        distancesOf(layout).map((length) => length / (tokens - classTokens)),
      );
      return this.#product(this.#reshape(a, [0, heads, tokens * tokens]), mean, [0, heads, 1]);
    }
    const rows = [0, heads, tokens];
    const far = this.#op('Mul', [
      a,
      this.#constant(`distance ${key}`, [tokens, tokens], () => distancesOf(layout)),
    ]);
    const each = this.#op('Div', [
      this.#product(far, this.#weights(tokens, 0, 1), rows),
      this.#toPatches(a, layout),
    ]);
    return this.#product(each, this.#weights(tokens, classTokens, 1 / (tokens - classTokens)), [0, heads, 1]);
  }

  /** `weighted` is A ln A. */
  #entropy(a: string, weighted: string, layout: Layout): string {
    const { heads, tokens, classTokens } = layout;
    const rows = [0, heads, tokens];
    if (this.#options.entropyOf !== 'patches') {
      const each = this.#product(weighted, this.#weights(tokens, 0, -1), rows);
      return this.#product(each, this.#weights(tokens, 0, 1 / tokens), [0, heads, 1]);
    }
    // Of rows A / s: ln s − Σ A ln A / s.
    const total = this.#toPatches(a, layout);
    const inner = this.#product(weighted, this.#weights(tokens, classTokens, 1), rows);
    const entropy = this.#op('Sub', [this.#op('Log', [total]), this.#op('Div', [inner, total])]);
    // A query that attends to no patch at all has none.
    const each = this.#op('Max', [entropy, this.#constant('zero', [], () => Float64Array.of(0))]);
    return this.#product(each, this.#weights(tokens, classTokens, 1 / (tokens - classTokens)), [0, heads, 1]);
  }

  /** [.., heads, tokens] what of each query's attention goes to patches; never 0, so that it can be divided by. */
  #toPatches(a: string, { heads, tokens, classTokens }: Layout): string {
    const total = this.#product(a, this.#weights(tokens, classTokens, 1), [0, heads, tokens]);
    return this.#op('Max', [total, this.#constant('least', [], () => Float64Array.of(Number.MIN_VALUE))]);
  }

  /** [tokens, 1] a value for the tokens from `from` on, 0 before. */
  #weights(tokens: number, from: number, value: number): string {
    return this.#constant(`weights ${tokens} ${from} ${value}`, [tokens, 1], () =>
      Float64Array.from({ length: tokens }, (_, token) => (token >= from ? value : 0)),
    );
  }

  /** Weighted sum over the last axis. */
  #product(x: string, weights: string, dims: readonly number[]): string {
    return this.#reshape(this.#op('MatMul', [x, weights]), dims);
  }

  #op(opType: string, input: string[], attributes: Readonly<Record<string, number | number[]>> = {}): string {
    const name = `${PREFIX}/${opType}_${this.nodes.length}`;
    const attribute = Object.entries(attributes).map(([key, value]) =>
      create(
        AttributeProtoSchema,
        typeof value === 'number'
          ? { name: key, type: 2, i: BigInt(value) }
          : { name: key, type: 7, ints: value.map(BigInt) },
      ),
    );
    this.nodes.push(create(NodeProtoSchema, { opType, name, input, output: [name], attribute }));
    return name;
  }

  #reshape(x: string, dims: readonly number[]): string {
    return this.#op('Reshape', [
      x,
      this.#initializer(`shape ${dims}`, () => ({
        type: 'int64',
        dims: [dims.length],
        data: BigInt64Array.from(dims, BigInt),
      })),
    ]);
  }

  #constant(key: string, dims: readonly number[], data: () => Float64Array): string {
    return this.#initializer(key, () => ({ type: 'float64', dims, data: data() }));
  }

  /** Layers of the same layout share their constants. */
  #initializer(key: string, make: () => OnnxTensor): string {
    let name = this.#constants.get(key);
    if (name === undefined) {
      name = `${PREFIX}/constant_${this.initializers.length}`;
      this.#constants.set(key, name);
      this.initializers.push(encodeTensor(name, make()));
    }
    return name;
  }
}

/** [tokens, tokens] pixels between two patches; 0 to and from class tokens. */
function distancesOf({ tokens, classTokens, grid: [, columns], cell }: Layout): Float64Array {
  const result = new Float64Array(tokens * tokens);
  for (let a = classTokens; a < tokens; a++) {
    for (let b = classTokens; b < tokens; b++) {
      const [from, to] = [a - classTokens, b - classTokens];
      const down = Math.floor(from / columns) - Math.floor(to / columns);
      const across = (from % columns) - (to % columns);
      result[a * tokens + b] = cell * Math.hypot(down, across);
    }
  }
  return result;
}
