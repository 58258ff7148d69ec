import { unsupported } from '../attributes.ts';
import { fusedOperator } from '../fused/index.ts';
import type { Constant, GraphNode } from '../graph.ts';
import { ShapeContext, type ShapeRules, type ValueInfo } from './context.ts';
import { elementwiseShapes } from './elementwise.ts';
import { layoutShapes } from './layout.ts';
import { reductionShapes } from './reduction.ts';

const RULES: ShapeRules = { ...elementwiseShapes, ...layoutShapes, ...reductionShapes };

/** Domains whose operators the rules know; in each an operator's name is its own. */
const DOMAINS = ['', 'ai.onnx', 'com.microsoft'];

/**
 * Types and shapes of a node's outputs from those of its inputs. `MODEL_UNSUPPORTED` for an operator without a rule or a shape
 * that depends on data, `MODEL_INVALID` for shapes that don't fit.
 */
export function inferNode(
  node: GraphNode,
  opset: number,
  values: ReadonlyMap<string, ValueInfo>,
  constants: ReadonlyMap<string, Constant>,
): readonly ValueInfo[] {
  const rule = shapeRule(node);
  if (!rule) throw unsupported(node, UNKNOWN);
  return rule(contextOf(node, opset, values, constants));
}

const UNKNOWN = 'is not supported in training';

function shapeRule(node: GraphNode): ShapeRules[string] | undefined {
  return fusedOperator(node)?.shape ?? (DOMAINS.includes(node.domain) ? RULES[node.op] : undefined);
}

/** Nodes whose operators have no rule, in the words of the error that they would cause. */
export function unknownNodes(nodes: readonly GraphNode[]): { node: GraphNode; why: string }[] {
  return nodes.filter((node) => !shapeRule(node)).map((node) => ({ node, why: UNKNOWN }));
}

export function contextOf(
  node: GraphNode,
  opset: number,
  values: ReadonlyMap<string, ValueInfo>,
  constants: ReadonlyMap<string, Constant>,
): ShapeContext {
  const inputs = node.inputs.map((name) => values.get(name));
  const context = new ShapeContext(node, opset, inputs, constants);
  for (const [i, name] of node.inputs.entries()) {
    if (name !== '' && !inputs[i]) throw context.invalid(`takes '${name}', which nothing before it makes`);
  }
  return context;
}
