import { CidError } from '../../native/errors.ts';
import { describeNode, product, sameDims } from '../attributes.ts';
import type { DataType, GraphNode } from '../graph.ts';
import { PRECISIONS, type Precision, precisionOf } from '../precision.ts';
import type { ShapeContext } from '../shapes/context.ts';
import type { StaticGraph } from '../static.ts';
import {
  type ChainNode,
  type ChainOperand,
  elementTypeNumber,
  type Factor,
  type FixedDraft,
  type ProductHead,
  type Ref,
  type Storage,
} from './draft.ts';

/** One operation before chains are made of elementwise ones. */
export type Raw =
  | FixedDraft
  | { readonly kind: 'node'; readonly count: number; readonly integers: boolean; readonly node: ChainNode }
  | { readonly kind: 'product'; readonly head: ProductHead };

/**
 * The order of a value's elements: ONNX's own, or pixel by pixel: [N, C, spatial axes] as [spatial axes, N, C], which is what
 * operations on images work on (native/include/clipcid/ops.h). `marks` are which tap of a pooling's window was the largest, which
 * stand for indices and can only be given back to its gradient.
 */
export type Layout = 'plain' | 'pixels' | 'marks';

/** Where a value lies. */
export interface Place {
  readonly storage: Storage;
  readonly offset: number;
  /** Defaults to 'plain'. */
  readonly layout?: Layout;
}

/** Columns of a matrix, or some elements that follow one another: where they begin, and elements from one row to the next. */
export interface Window {
  readonly offset: number;
  readonly row: number;
}

/** A parameter's gradient, or a window of it, that a value is added to. */
export interface GradientPart extends Partial<Window> {
  readonly parameter: string;
}

/** A node that the native core has no operation for. */
export interface Unsupported {
  readonly node: GraphNode;
  readonly why: string;
}

/** Thrown by a rule for a form of an operator that there is nothing for. */
export class NotNative extends Error {}

/**
 * What rules turn nodes into: operations over storages. Values are dense and row-major; those that only have another shape share
 * their storage.
 */
export class Lowering {
  readonly graph: StaticGraph;
  readonly raws: Raw[] = [];
  readonly unsupported: Unsupported[] = [];
  readonly #places = new Map<string, Place>();
  readonly #starts: ReadonlyMap<string, number>;
  /** Gradients by the value that is added to them. */
  readonly #targets: ReadonlyMap<string, GradientPart>;
  readonly #gradients = new Map<string, Storage>();
  readonly #accumulated = new Set<string>();
  readonly #used: ReadonlySet<string>;
  readonly #precision: Precision;
  /** The same values in the other order, by layout and value. */
  readonly #converted = new Map<string, Place>();
  /** What values are that only repeat another one along some axes, until somebody needs them whole. */
  readonly #repeated = new Map<string, string>();
  /** What values are that are only windows of parameters, until somebody needs them dense. */
  readonly #windows = new Map<string, Window & { readonly source: string }>();
  #node: GraphNode | undefined;

  constructor(
    graph: StaticGraph,
    options: {
      /** Where each parameter begins in the flat buffer. */
      readonly starts: ReadonlyMap<string, number>;
      /** Values that are added to a parameter's gradient, and nothing else is done with. */
      readonly targets: ReadonlyMap<string, GradientPart>;
      /** Values that something reads. */
      readonly used: ReadonlySet<string>;
      /** Of products that are large enough. */
      readonly precision: Precision;
    },
  ) {
    this.graph = graph;
    this.#starts = options.starts;
    this.#targets = options.targets;
    this.#used = options.used;
    this.#precision = options.precision;
  }

  /** Number of the precision of what has products inside and is large enough for another: convolutions and attention on a GPU. */
  get precisionNumber(): number {
    return PRECISIONS.indexOf(this.#precision);
  }

  dims(value: string): readonly number[] {
    return this.graph.dims(value);
  }

  count(value: string): number {
    return product(this.dims(value));
  }

  type(value: string): DataType {
    return this.graph.info(value).type;
  }

  /** Of a value that exists, in whatever order it lies. */
  place(value: string): Place {
    const known = this.#places.get(value);
    if (known) return known;
    const source = this.#repeated.get(value);
    if (source !== undefined) {
      const dims = this.dims(value);
      const made: Storage = {
        ...this.place(source).storage,
        space: 'arena',
        count: product(dims),
        name: value,
      };
      this.stepInto(made, 'copy', [this.operand(source, dims)]);
      this.#places.set(value, { storage: made, offset: 0 });
      return this.place(value);
    }
    const window = this.#windows.get(value);
    if (window) {
      const [rows, columns] = this.dims(value) as [number, number];
      const from = this.place(window.source);
      const made: Storage = { ...from.storage, space: 'arena', count: rows * columns, name: value };
      const code = [this.typeNumber(value), 2, rows, window.row, columns, columns, 1, 1];
      const source = this.ref({ ...from, offset: from.offset + window.offset });
      this.fixed('copy', [...code, source, this.ref({ storage: made, offset: 0 }, 'write')]);
      this.#places.set(value, { storage: made, offset: 0 });
      return this.place(value);
    }
    const place = { storage: this.#source(value), offset: 0 };
    this.#places.set(value, place);
    return place;
  }

  /** Of a value whose elements are needed in an order. */
  placeIn(layout: 'plain' | 'pixels', value: string): Place {
    if (layout === 'pixels' && this.#repeated.has(value) && !this.#places.has(value)) {
      const dims = this.dims(value);
      const source = this.place(this.#repeated.get(value)!);
      const made: Storage = { ...source.storage, space: 'arena', count: product(dims), name: value };
      this.stepInto(made, 'copy', [this.operand(value, dims, 'pixels')]);
      this.#places.set(value, { storage: made, offset: 0, layout });
    }
    const place = this.place(value);
    const own = place.layout ?? 'plain';
    if (own === layout || (own !== 'marks' && this.isFlat(value))) return place;
    if (own === 'marks') throw new NotNative('reads the indices of a pooling, which has no native operation');
    const key = `${layout}|${value}`;
    let converted = this.#converted.get(key);
    if (!converted) {
      const dims = this.dims(value);
      const storage: Storage = {
        ...place.storage,
        space: 'arena',
        count: product(dims),
        name: `${value}, ${layout}`,
      };
      const [from, to] = [stridesIn(own, dims), stridesIn(layout, dims)];
      const axes = dims.flatMap((size, axis) => [size, from[axis]!, to[axis]!]);
      const code = [
        this.numberOf(storage.type),
        dims.length,
        ...axes,
        this.ref(place),
        this.ref({ storage, offset: 0 }, 'write'),
      ];
      this.fixed('copy', code);
      converted = { storage, offset: 0, layout };
      this.#converted.set(key, converted);
    }
    return converted;
  }

  /** Whether both orders are the same, because there is one pixel or the value is no image. */
  isFlat(value: string): boolean {
    const dims = this.dims(value);
    return dims.length < 3 || product(dims.slice(2)) === 1 || (dims[0] === 1 && dims[1] === 1);
  }

  isPixels(value: string): boolean {
    return !this.#repeated.has(value) && this.place(value).layout === 'pixels' && !this.isFlat(value);
  }

  #source(value: string): Storage {
    const { type } = this.graph.info(value);
    const common = { type, count: this.count(value), name: value };
    const constant = this.graph.constants.get(value);
    if (constant) return { ...common, space: 'constants', constant, ofBatch: false };
    const start = this.#starts.get(value);
    if (start !== undefined) return { ...common, space: 'parameters', start, ofBatch: false };
    if (this.graph.inputs.some(({ name }) => name === value))
      return { ...common, space: 'arena', ofBatch: true };
    throw new CidError('INTERNAL', `Value '${value}' is read before it is made`);
  }

  /** Where a parameter's values or its gradient lie. */
  parameter(name: string): Storage {
    return this.place(name).storage;
  }

  gradient(name: string): Storage {
    let storage = this.#gradients.get(name);
    if (!storage) {
      const { type, count, start } = this.parameter(name);
      storage = {
        type,
        count,
        start: start!,
        space: 'gradients',
        name: `gradient of ${name}`,
        ofBatch: false,
      };
      this.#gradients.set(name, storage);
    }
    return storage;
  }

  ref({ storage, offset }: Place, access: Ref['access'] = 'read'): Ref {
    return { storage, offset, access };
  }

  read(value: string): Ref {
    return this.ref(this.placeIn('plain', value));
  }

  readPixels(value: string): Ref {
    return this.ref(this.placeIn('pixels', value));
  }

  /** The number of a value's element type. */
  typeNumber(value: string): number {
    return this.numberOf(this.type(value));
  }

  numberOf(type: DataType): number {
    const number = elementTypeNumber(type);
    if (number === undefined) throw new NotNative(`holds ${type}`);
    return number;
  }

  /** Room for a value that is made now. */
  write(value: string, layout: Layout = 'plain'): Ref {
    const storage = this.fresh(this.type(value), this.count(value), value);
    this.#places.set(value, { storage, offset: 0, layout });
    return this.ref({ storage, offset: 0 }, 'write');
  }

  /** Room of so many bytes for marks in a value's stead. */
  writeMarks(value: string, bytes: number): Ref {
    const storage = this.fresh('uint8', bytes, value);
    this.#places.set(value, { storage, offset: 0, layout: 'marks' });
    return this.ref({ storage, offset: 0 }, 'write');
  }

  /** A value that is another one repeated along the axes that it lacks, which costs nothing where elementwise operations read it. */
  repeat(value: string, source: string): void {
    this.#repeated.set(value, source);
  }

  /** Room for something that no value stands for, of the same batch as what the node reads. */
  fresh(type: DataType, count: number, name: string): Storage {
    this.numberOf(type);
    const ofBatch = (this.#node?.inputs ?? []).some(
      (input) => input !== '' && this.place(input).storage.ofBatch,
    );
    return { type, count, space: 'arena', name, ofBatch };
  }

  /**
   * Room for a value that may be added to a parameter's gradient where it is made: then `accumulate`, and the value is nowhere else. Its
   * rows are `row` apart where they are not dense.
   */
  writeSum(value: string): { readonly ref: Ref; readonly accumulate: boolean; readonly row?: number } {
    const target = this.#targets.get(value);
    if (target === undefined) return { ref: this.write(value), accumulate: false };
    this.#accumulated.add(value);
    const { parameter, offset = 0, row } = target;
    const ref = this.ref({ storage: this.gradient(parameter), offset }, 'update');
    return { ref, accumulate: true, ...(row === undefined ? {} : { row }) };
  }

  /** A matrix that is a window of a parameter, which costs nothing where products read it. */
  window(value: string, source: string, window: Window): void {
    this.#windows.set(value, { ...window, source });
  }

  /** A product's operand, and how far its rows are apart where they are not dense. */
  matrix(value: string): { readonly ref: Ref; readonly row?: number } {
    const window = this.#places.has(value) ? undefined : this.#windows.get(value);
    if (!window) return { ref: this.read(value) };
    const { storage, offset } = this.place(window.source);
    return { ref: this.ref({ storage, offset: offset + window.offset }), row: window.row };
  }

  /** Room for a value, or null where nothing reads it. */
  writeUsed(value: string | undefined): Ref | null {
    return value && this.#used.has(value) ? this.write(value) : null;
  }

  /** Room for a value that an operation adds to: a gradient, or zeros; null where nothing reads it. */
  sum(value: string): Ref | null {
    if (!this.#used.has(value)) return null;
    const { ref, accumulate } = this.writeSum(value);
    if (accumulate) return ref;
    this.fixed('fill', [this.numberOf('float32'), this.count(value), 0, ref]);
    return { ...ref, access: 'update' };
  }

  /** The same elements as another value's, from an element of it on. */
  alias(value: string, from: string, offset = 0): void {
    const { storage, offset: start } = this.placeIn('plain', from);
    this.#places.set(value, { storage, offset: start + offset });
  }

  /** The same value under another name. */
  same(value: string, from: string): void {
    const source = this.#repeated.get(from);
    if (source !== undefined && !this.#places.has(from)) this.repeat(value, source);
    else this.#places.set(value, this.place(from));
  }

  /** An output that is part of another value is copied, so that the parts of a batch follow one another. */
  makeWhole(value: string): void {
    const { storage, offset } = this.placeIn('plain', value);
    this.#places.set(value, { storage, offset });
    if (offset === 0 && storage.count === this.count(value)) return;
    const own: Storage = { ...storage, space: 'arena', count: this.count(value), name: value };
    this.stepInto(own, 'copy', [this.dense({ storage, offset }, own.count)]);
    this.#places.set(value, { storage: own, offset: 0 });
  }

  fixed(op: string, code: FixedDraft['code'], flops = 0): void {
    this.raws.push({ kind: 'fixed', op, code, flops, nodes: [this.#name] });
  }

  product(head: Omit<ProductHead, 'node' | 'precision'>): void {
    const precision = precisionOf(this.#precision, head.m, head.n, head.k);
    this.raws.push({ kind: 'product', head: { ...head, precision, node: this.#name } });
  }

  /** An elementwise operation that makes a value; operands are values, which broadcast, or numbers. */
  step(
    value: string,
    step: string,
    operands: readonly (string | number)[],
    numbers: { p?: number; q?: number } = {},
  ): void {
    const dims = this.dims(value);
    // In whole numbers where any of the operands is one, but for a conversion.
    const types = operands.map((operand) => (typeof operand === 'number' ? undefined : this.type(operand)));
    const integers =
      types.some((type) => type === 'int64' || type === 'int32') && this.type(value) !== 'float32';
    const images = operands.some(
      (operand) =>
        typeof operand === 'string' && this.isPixels(operand) && sameDims(this.dims(operand), dims),
    );
    const layout = images ? 'pixels' : 'plain';
    // A step has room for one number.
    let free = numbers.p === undefined && !operands.some((operand) => typeof operand === 'number');
    const seen = operands.map((operand) => {
      if (typeof operand === 'number') return operand;
      const number = free ? this.number(operand) : undefined;
      if (number === undefined) return this.operand(operand, dims, layout);
      free = false;
      return number;
    });
    this.stepInto(this.write(value, layout).storage, step, seen, numbers, integers);
  }

  stepInto(
    out: Storage,
    step: string,
    operands: readonly (ChainOperand | number)[],
    numbers: { p?: number; q?: number } = {},
    integers = false,
  ): void {
    const { p = 0, q = 0 } = numbers;
    this.raws.push({
      kind: 'node',
      count: out.count,
      integers,
      node: { step, operands, p, q, out, node: this.#name },
    });
  }

  /** The number that a constant of one element is, where a float32 holds it. */
  number(value: string): number | undefined {
    const constant = this.graph.constants.get(value);
    if (constant?.data.length !== 1) return undefined;
    const number = Number(constant.data[0]);
    return Math.fround(number) === number || Number.isNaN(number) ? number : undefined;
  }

  /** A value broadcast to a shape, whose elements are gone through in an order. */
  operand(value: string, dims: readonly number[], layout: 'plain' | 'pixels' = 'plain'): ChainOperand {
    const source = this.#repeated.get(value);
    if (source !== undefined && !this.#places.has(value)) return this.operand(source, dims, layout);
    const own = this.dims(value);
    // An image that is read whole lies in the order in which it is read.
    const whole = sameDims(own, dims);
    const place = whole ? this.placeIn(layout, value) : this.place(value);
    this.numberOf(place.storage.type);
    const strides = stridesIn(place.layout ?? 'plain', own);
    const lead = dims.length - own.length;
    const factors = dims.map((size, axis) => ({
      size,
      stride: axis < lead || own[axis - lead] === 1 ? 0 : strides[axis - lead]!,
    }));
    const ordered = layout === 'pixels' ? [...factors.slice(2), ...factors.slice(0, 2)] : factors;
    return { storage: place.storage, offset: place.offset, factors: collapsed(ordered) };
  }

  /** All of a storage in its order. */
  dense({ storage, offset }: Place, count = storage.count): ChainOperand {
    return { storage, offset, factors: [{ size: count, stride: 1 }] };
  }

  context(node: GraphNode): ShapeContext {
    return this.graph.context(node);
  }

  get #name(): string {
    return this.#node?.name || (this.#node?.outputs[0] ?? '');
  }

  /** Lowers one node by its rule; what has none, or not for this form, is noted, and its values get room all the same. */
  node(node: GraphNode, rule: LoweringRule | undefined): void {
    this.#node = node;
    const before = this.raws.length;
    try {
      if (!rule) throw new NotNative('has no native operation');
      rule(this, node);
    } catch (error) {
      if (!(error instanceof NotNative)) throw error;
      this.raws.length = before;
      this.unsupported.push({ node, why: error.message });
      for (const output of node.outputs) {
        if (output === '') continue;
        const { type } = this.graph.info(output);
        const storage: Storage = {
          type,
          count: this.count(output),
          space: 'arena',
          name: output,
          ofBatch: true,
        };
        this.#places.set(output, { storage, offset: 0 });
      }
    }
    // What a rule did not add to a gradient itself is added behind it.
    for (const output of node.outputs) {
      const target = this.#targets.get(output);
      if (target === undefined || this.#accumulated.has(output)) continue;
      if (target.row !== undefined) throw new Error(`${node.op} does not add to a part of a gradient`);
      this.addToGradient(target.parameter, output);
    }
    this.#node = undefined;
  }

  addToGradient(parameter: string, value: string): void {
    const gradient = this.gradient(parameter);
    const { storage, offset } = this.placeIn('plain', value);
    this.stepInto(gradient, 'add', [
      this.dense({ storage: gradient, offset: 0 }),
      this.dense({ storage, offset }, gradient.count),
    ]);
  }
}

export type LoweringRule = (l: Lowering, node: GraphNode) => void;
export type LoweringRules = Readonly<Record<string, LoweringRule>>;

/** Factors without those of one element, and neighbours that follow one another as one. */
export function collapsed(factors: readonly Factor[]): Factor[] {
  const result: Factor[] = [];
  for (const factor of factors) {
    if (factor.size === 1) continue;
    const before = result.at(-1);
    if (before && before.stride === factor.size * factor.stride) {
      result[result.length - 1] = { size: before.size * factor.size, stride: factor.stride };
    } else {
      result.push(factor);
    }
  }
  return result.length > 0 ? result : [{ size: 1, stride: 1 }];
}

/** What a node is called when it cannot be run. */
export function describeUnsupported({ node, why }: Unsupported): string {
  return `${describeNode(node)} ${why}`;
}

/** Elements between neighbours along each axis of a value that lies in an order. */
export function stridesIn(layout: Layout, dims: readonly number[]): number[] {
  const plain = (sizes: readonly number[]) => sizes.map((_, axis) => product(sizes.slice(axis + 1)));
  if (layout !== 'pixels' || dims.length < 3) return plain(dims);
  const lying = plain([...dims.slice(2), ...dims.slice(0, 2)]);
  return [...lying.slice(-2), ...lying.slice(0, -2)];
}
