import type { CidError } from '../../native/errors.ts';
import { floatAttribute, intAttribute, unsupported } from '../attributes.ts';
import { Emitter } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { ShapeContext } from '../shapes/context.ts';
import type { StaticGraph } from '../static.ts';

/** Where gradients gather while nodes are visited. */
export interface Tape {
  needs(value: string): boolean;
  give(value: string, gradient: string): void;
  giveRows(value: string, indices: string, rows: string): boolean;
}

/** What a gradient rule sees and does: it reads gradients of a node's outputs and gives gradients to its inputs. */
export class RuleContext extends Emitter {
  readonly node: GraphNode;
  /** The node's shapes and constant inputs. */
  readonly shape: ShapeContext;
  readonly #gradients: readonly (string | undefined)[];
  readonly #tape: Tape;

  constructor(graph: StaticGraph, node: GraphNode, gradients: readonly (string | undefined)[], tape: Tape) {
    super(graph);
    this.node = node;
    this.shape = graph.context(node);
    this.#gradients = gradients;
    this.#tape = tape;
  }

  /** Name of an input. */
  input(index: number): string {
    return this.node.inputs[index]!;
  }

  /** Name of the first output. */
  get y(): string {
    return this.node.outputs[0]!;
  }

  /** Gradient of the first output; zeros when only another output has one. */
  get dy(): string {
    return this.gradient(0);
  }

  gradient(output: number): string {
    return this.#gradients[output] ?? this.zeros(this.dims(this.node.outputs[output]!));
  }

  /** Whether anything wants the gradient of an input. */
  needs(input: number): boolean {
    const name = this.node.inputs[input];
    return name !== undefined && name !== '' && this.#tape.needs(name);
  }

  /** Adds to the gradient of an input, which must have its shape. Nothing happens when nobody needs it. */
  give(input: number, gradient: string): void {
    if (this.needs(input)) this.#tape.give(this.input(input), gradient);
  }

  /** As `give`, with rows to add at indices along axis 0. False when the input is no parameter, and only `give` will do. */
  giveRows(input: number, indices: string, rows: string): boolean {
    return this.#tape.giveRows(this.input(input), indices, rows);
  }

  int(name: string, fallback: number): number {
    return intAttribute(this.node, name, fallback);
  }

  float(name: string, fallback: number): number {
    return floatAttribute(this.node, name, fallback);
  }

  unsupported(why: string): CidError {
    return unsupported(this.node, why);
  }
}

/** Writes the nodes of one operator's gradient. */
export type GradientRule = (context: RuleContext) => void;
export type GradientRules = Readonly<Record<string, GradientRule>>;
