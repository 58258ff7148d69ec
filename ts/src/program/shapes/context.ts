import { CidError } from '../../native/errors.ts';
import { broadcastDims, describeNode, numbersOf } from '../attributes.ts';
import type { Constant, DataType, GraphNode } from '../graph.ts';

/** Type and shape of a value, once the inputs of the graph have theirs. */
export interface ValueInfo {
  readonly type: DataType;
  readonly dims: readonly number[];
}

/** What a shape rule sees: a node and what is known of its inputs. */
export class ShapeContext {
  readonly node: GraphNode;
  readonly opset: number;
  readonly #inputs: readonly (ValueInfo | undefined)[];
  readonly #constants: ReadonlyMap<string, Constant>;

  constructor(
    node: GraphNode,
    opset: number,
    inputs: readonly (ValueInfo | undefined)[],
    constants: ReadonlyMap<string, Constant>,
  ) {
    this.node = node;
    this.opset = opset;
    this.#inputs = inputs;
    this.#constants = constants;
  }

  get inputCount(): number {
    return this.#inputs.length;
  }

  has(index: number): boolean {
    return this.#inputs[index] !== undefined;
  }

  info(index: number): ValueInfo {
    const info = this.#inputs[index];
    if (!info) throw this.invalid(`has no input ${index}`);
    return info;
  }

  dims(index: number): readonly number[] {
    return this.info(index).dims;
  }

  type(index: number): DataType {
    return this.info(index).type;
  }

  /** Values of an input that must be known beforehand: a shape, axes, split sizes. */
  numbers(index: number): number[] {
    const constant = this.#constants.get(this.node.inputs[index] ?? '');
    if (!constant) {
      throw new CidError(
        'MODEL_UNSUPPORTED',
        `Operator ${describeNode(this.node)} takes a shape, axis or index at input ${index} that depends on the data`,
      );
    }
    return numbersOf(constant);
  }

  broadcast(a: readonly number[], b: readonly number[]): number[] {
    const dims = broadcastDims(a, b);
    if (!dims) throw this.invalid(`cannot combine shapes [${a}] and [${b}]`);
    return dims;
  }

  invalid(why: string): CidError {
    return new CidError('MODEL_INVALID', `Operator ${describeNode(this.node)} ${why}`);
  }
}

/** Infos of a node's outputs in order. */
export type ShapeRule = (context: ShapeContext) => readonly ValueInfo[];
export type ShapeRules = Readonly<Record<string, ShapeRule>>;
