import type { Emitter } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { ItemRule } from '../items.ts';
import type { GradientRule } from '../rules/context.ts';
import type { ShapeContext, ShapeRule } from '../shapes/context.ts';

/** An operator of our own (domain {@link OWN}): what ONNX takes several for, because it is faster, or simpler to differentiate, as one. */
export interface FusedOperator {
  readonly shape: ShapeRule;
  /** Absent for what only appears in gradients. */
  readonly gradient?: GradientRule;
  /** Writes the same in ONNX's operators and com.microsoft's, and returns the values of its outputs in order. */
  readonly decompose: (e: Emitter, node: GraphNode, shape: ShapeContext) => readonly string[];
  /** Absent where it mixes items, or only appears in gradients. */
  readonly items?: ItemRule;
}

export type FusedOperators = Readonly<Record<string, FusedOperator>>;
