import { CidError } from '../../native/errors.ts';
import type { ModelProto, NodeProto } from '../../onnx/onnx_pb.ts';
import { Flow, integer, nameOf, opsetOf } from './flow.ts';

/** A place in a graph where attention probabilities are made. */
export interface AttentionSite {
  /** Value with the probabilities, [.., queries, keys]; each row sums to 1. */
  readonly value: string;
  /** Of the node that makes it. */
  readonly node: string;
  /** Axis that sums to 1 as the node has it, negative from the end; it has to be the last one. */
  readonly axis: number;
}

/** Operators that multiply two matrices, with the inputs that are these. */
const PRODUCTS: Readonly<Record<string, readonly number[]>> = {
  MatMul: [0, 1],
  Gemm: [0, 1],
  Einsum: [0, 1],
  MatMulInteger: [0, 1],
  QLinearMatMul: [0, 3],
  FusedMatMul: [0, 1],
  TransposeMatMul: [0, 1],
  MatMulIntegerToFloat: [0, 1],
};

/** What exporters put between the product of queries and keys and the softmax: scaling, masks, biases, other shapes and types. */
const BEFORE = new Set([
  ...['Mul', 'Div', 'Add', 'Sub', 'Sum', 'Where', 'Clip', 'Max', 'Min', 'Tanh'],
  ...['Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Expand', 'Slice', 'Identity', 'Cast', 'CastLike'],
  ...['Dropout', 'QuantizeLinear', 'DequantizeLinear'],
]);

/** And between the softmax and the product with the values. */
const AFTER = new Set([
  ...['Dropout', 'Identity', 'Cast', 'CastLike', 'Mul', 'Where', 'IsNaN'],
  ...['Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Expand', 'Slice'],
  ...['QuantizeLinear', 'DequantizeLinear', 'DynamicQuantizeLinear'],
]);

/** Operators that have the whole of attention in them. */
const FUSED = /attention/i;
/** Softmax in forms that hold no probabilities that can be read. */
const QUANTIZED = new Set(['QLinearSoftmax']);
/**
 * Finds attention in a graph: a softmax of a product of two values that both depend on the image, whose result goes into another such
 * product. What exporters write between is passed over: scaling of the scores or of queries and keys, masks, position biases, reshapes
 * with and without a batch of heads, casts, dropout, quantisation. In the order of the graph. A softmax may be one operator (`BiasSoftmax`
 * of ONNX Runtime too) or written out as an exponential over its sum.
 *
 * Fails with MODEL_UNSUPPORTED where attention is fused into operators, or kept in functions, that do not give their probabilities out;
 * the message says how to export. An empty list means that there is no attention at all.
 *
 * @param input Name of the graph's input for images.
 * @param source What messages call the model.
 */
export function findAttention(model: ModelProto, input: string, source = 'the model'): AttentionSite[] {
  const { sites, fused, called } = scan(model, input);
  if (sites.length > 0) return sites;
  if (fused.length > 0) throw fusedError(source, fused);
  const named = called.find(({ opType }) => FUSED.test(opType)) ?? called[0];
  if (named) throw functionError(source, named);
  return [];
}

/** Attention of a graph that cannot be read, where there is some that can: nodes with the reason, in the order of the graph. */
export function hiddenAttention(model: ModelProto, input: string): { node: string; reason: string }[] {
  const { fused, called } = scan(model, input);
  return model.graph!.node.flatMap((node) => {
    const reason = fused.includes(node)
      ? `it is fused into ${kindOf(node)}, which gives out no probabilities`
      : called.includes(node)
        ? `it is inside a function of the model, ${kindOf(node)}`
        : undefined;
    return reason === undefined ? [] : { node: nameOf(node), reason };
  });
}

interface Found {
  readonly sites: AttentionSite[];
  /** Operators that have all of attention in them. */
  readonly fused: NodeProto[];
  /** Calls of functions that have it. */
  readonly called: NodeProto[];
}

function scan(model: ModelProto, input: string): Found {
  const flow = new Flow(model, input);
  const functions = new Set(model.functions.map(({ domain, name }) => `${domain}:${name}`));
  const sites: AttentionSite[] = [];
  const fused: NodeProto[] = [];
  const called: NodeProto[] = [];
  for (const node of flow.graph.node) {
    if (!node.output.some((value) => flow.dependsOnInput(value))) continue;
    if (functions.has(`${node.domain}:${node.opType}`)) {
      if (FUSED.test(node.opType) || hasSoftmax(model, node)) called.push(node);
    } else if (FUSED.test(node.opType) || QUANTIZED.has(node.opType)) fused.push(node);
    const softmax = softmaxOf(flow, node, opsetOf(model));
    if (!softmax) continue;
    const value = node.output[0]!;
    if (isScore(flow, softmax.scores) && isUsed(flow, value)) {
      sites.push({ value, node: nameOf(node), axis: softmax.axis });
    }
  }
  return { sites, fused, called };
}

/** The scores that a node takes the softmax of. */
function softmaxOf(flow: Flow, node: NodeProto, opset: number): { scores: string; axis: number } | undefined {
  const { opType } = node;
  if (opType === 'Softmax')
    return { scores: node.input[0]!, axis: integer(node, 'axis') ?? (opset < 13 ? 1 : -1) };
  if (opType === 'BiasSoftmax') return { scores: node.input[0]!, axis: -1 };
  if (opType !== 'Div') return undefined;
  // exp(x) / Σ exp(x); what is subtracted from x first is passed over later.
  const [numerator, denominator] = node.input.map((value) => flow.producer(value));
  const written =
    numerator?.opType === 'Exp' &&
    denominator?.opType === 'ReduceSum' &&
    denominator.input[0] === numerator.output[0];
  return written ? { scores: numerator.input[0]!, axis: -1 } : undefined;
}

/** Whether a value is a product of two that depend on the image, but for what comes between. */
function isScore(flow: Flow, value: string, seen = new Set<string>()): boolean {
  const node = flow.producer(value);
  if (!node || seen.has(value) || !flow.dependsOnInput(value)) return false;
  seen.add(value);
  if (isProduct(flow, node)) return true;
  return BEFORE.has(node.opType) && node.input.some((input) => isScore(flow, input, seen));
}

/** Whether a value becomes a factor of a product with something else that depends on the image. */
function isUsed(flow: Flow, value: string, seen = new Set<string>()): boolean {
  if (seen.has(value)) return false;
  seen.add(value);
  const between = ({ opType, output }: NodeProto) =>
    AFTER.has(opType) && output.some((next) => isUsed(flow, next, seen));
  return flow.consumers(value).some((node) => isProduct(flow, node) || between(node));
}

function isProduct(flow: Flow, node: NodeProto): boolean {
  const factors = PRODUCTS[node.opType];
  return factors?.every((place) => flow.dependsOnInput(node.input[place] ?? '')) === true;
}

function hasSoftmax(model: ModelProto, { domain, opType }: NodeProto): boolean {
  const body = model.functions.find((candidate) => candidate.domain === domain && candidate.name === opType);
  return body?.node.some((node) => node.opType === 'Softmax' || hasSoftmax(model, node)) === true;
}

function kindOf({ domain, opType }: NodeProto): string {
  return domain === '' ? opType : `${domain}.${opType}`;
}

function fusedError(source: string, nodes: readonly NodeProto[]): CidError {
  const kinds = new Map<string, NodeProto[]>();
  for (const node of nodes) {
    const kind = kindOf(node);
    kinds.set(kind, [...(kinds.get(kind) ?? []), node]);
  }
  const named = [...kinds].map(([kind, of]) => `${of.length} ${kind} (such as ${nameOf(of[0]!)})`);
  return new CidError(
    'MODEL_UNSUPPORTED',
    `The attention of ${source} is fused into ${named.join(' and ')}, which gives out no probabilities. Export it unfused: ` +
      "attn_implementation='eager' in transformers, timm.layers.set_fused_attn(False) in timm, operator set 22 or lower, and neither " +
      "ONNX Runtime's transformer optimiser nor static quantisation of the softmax",
  );
}

function functionError(source: string, node: NodeProto): CidError {
  return new CidError(
    'MODEL_UNSUPPORTED',
    `The attention of ${source} is inside functions of the model (such as ${kindOf(node)}), where its probabilities cannot be ` +
      'read. Inline them with onnx.inliner.inline_local_functions, or export with torch.onnx.export(…, dynamo=False)',
  );
}
