import { floatAttribute, intAttribute, product, sameDims } from '../attributes.ts';
import { OWN } from '../emitter.ts';
import { isCausal } from '../fused/attention.ts';
import type { GraphNode } from '../graph.ts';
import type { Factor } from '../view.ts';
import type { Matcher, Rewrite } from './matcher.ts';

/**
 * softmax(scale · q kᵀ + mask) v as one operator over rows of all heads: [batch, tokens, heads · depth]. It takes queries, keys and
 * values as they lie in the products that make them, whatever an exporter does to get at the heads, and all three at once where
 * they are the thirds of one product.
 */
export const attention: Rewrite = (m, node) => {
  const [p, v] = node.inputs as [string, string];
  if (node.op === 'FusedMatMul' && !isPlain(node)) return undefined;
  const softmax = m.made(peeled(m, p), 'Softmax');
  const dims = m.originalDims(node.outputs[0]!);
  if (!softmax || (dims.length !== 3 && dims.length !== 4) || !sameDims(leading(m, p), leading(m, v)))
    return undefined;
  const probabilities = m.dims(softmax.inputs[0]!);
  const axis = intAttribute(softmax, 'axis', -1);
  if (axis !== -1 && axis !== probabilities.length - 1) return undefined;
  const found = scoresOf(m, peeled(m, softmax.inputs[0]!));
  if (!found) return undefined;
  const { query, key, mask, scale } = found;
  // Heads may be an axis of their own or part of the batch.
  if (!sameDims(leading(m, query), leading(m, key)) || !sameDims(leading(m, query), leading(m, v)))
    return undefined;
  if (m.dims(query).at(-1) !== m.dims(v).at(-1)) return undefined;

  const [q, k] = [m.trace(query, { factors: true }), m.trace(key, { factors: true })];
  const traced = [q, k, m.trace(v)];
  const places = [query, key, v].map((value, i) => {
    const { base, view } = traced[i]!;
    return placeOf(base, view.offset, view.axes, product(m.dims(base)), m.dims(value));
  });
  const heads = headsOf(places, dims);
  const masked = mask === undefined ? {} : maskOf(m, mask, dims, probabilities.at(-1)!, heads);
  if (!masked) return undefined;
  const operands = operandsOf(m, [query, key, v], places, heads, [q.factor, k.factor, 1]);
  const attributes = {
    heads,
    scale: scale * operands.factor,
    ...(operands.packed ? { packed: 1 } : {}),
    ...(masked.causal ? { causal: 1 } : {}),
  };
  const inputs = masked.value === undefined ? operands.inputs : [...operands.inputs, masked.value];
  const y = m.graph.emit('Attention', inputs, attributes, OWN);
  const [batch, tokens, width] = m.dims(y) as [number, number, number];
  const turned = m.transpose(m.reshape(y, [batch, tokens, heads, width / heads]), [0, 2, 1, 3]);
  return m.reshape(turned, dims);
};

const isPlain = (node: GraphNode) =>
  intAttribute(node, 'transA', 0) === 0 &&
  intAttribute(node, 'transB', 0) === 0 &&
  floatAttribute(node, 'alpha', 1) === 1;

const leading = (m: Matcher, value: string) => m.dims(value).slice(0, -2);

/** The value behind reshapes of its leading axes alone. */
function peeled(m: Matcher, value: string): string {
  for (let node = m.made(value, 'Reshape'); node; node = m.made(value, 'Reshape')) {
    const from = node.inputs[0]!;
    if (!sameDims(m.dims(from).slice(-2), m.dims(value).slice(-2))) return value;
    value = from;
  }
  return value;
}

interface Scores {
  readonly query: string;
  /** [..., keys, depth] */
  readonly key: string;
  readonly mask: string | undefined;
  readonly scale: number;
}

/** scale · query · keyᵀ + mask. */
function scoresOf(m: Matcher, value: string): Scores | undefined {
  const sum = m.made(value, 'Add');
  if (sum) {
    for (const [scores, mask] of [sum.inputs, sum.inputs.toReversed()] as [string, string][]) {
      const found = m.isLearned(mask) ? undefined : scoresOf(m, peeled(m, scores));
      if (found && found.mask === undefined) return { ...found, mask };
    }
    return undefined;
  }
  const scaled = m.scaled(m.producer(value));
  if (scaled) {
    const found = scoresOf(m, peeled(m, scaled[1]));
    return found && found.mask === undefined ? { ...found, scale: found.scale * scaled[0] } : undefined;
  }
  const node = m.producer(value);
  if (node?.op !== 'MatMul' && node?.op !== 'FusedMatMul') return undefined;
  if (intAttribute(node, 'transA', 0) === 1) return undefined;
  const [query, right] = node.inputs as [string, string];
  const rank = m.dims(right).length;
  if (rank < 3) return undefined;
  const axes = m.dims(right).map((_, i) => i);
  const key =
    intAttribute(node, 'transB', 0) === 1
      ? right
      : m.transpose(right, [...axes.slice(0, -2), rank - 1, rank - 2]);
  return { query, key, mask: undefined, scale: floatAttribute(node, 'alpha', 1) };
}

/** Where [batch, heads, tokens, depth] lies in a value of [batch, tokens, columns]: `heads · depth` columns from `offset` on. */
interface Place {
  readonly base: string;
  readonly batch: number;
  readonly tokens: number;
  readonly columns: number;
  readonly offset: number;
  readonly heads: number;
  readonly depth: number;
}

function placeOf(
  base: string,
  offset: number,
  axes: readonly (readonly Factor[])[],
  count: number,
  dims: readonly number[],
): Place | undefined {
  const [tokens, depth] = [dims.at(-2)!, dims.at(-1)!];
  const [rows, columns] = [axes.at(-2)!, axes.at(-1)!];
  if (rows.length !== 1 || columns.length !== 1 || columns[0]!.stride !== 1) return undefined;
  const row = rows[0]!.stride;
  const lead = axes.slice(0, -2).flat();
  const last = lead.at(-1);
  const heads = last && last.stride === depth && last.size * depth <= row ? last.size : 1;
  const [item, ...more] = heads > 1 ? lead.slice(0, -1) : lead;
  const batch = item?.size ?? 1;
  if (more.length > 0 || (item && item.stride !== tokens * row)) return undefined;
  if (batch * tokens * row !== count || offset + heads * depth > row) return undefined;
  return { base, batch, tokens, columns: row, offset, heads, depth };
}

/** The number of heads that all places agree on; without places that of the axes, or one. */
function headsOf(places: readonly (Place | undefined)[], dims: readonly number[]): number {
  const [first] = places;
  if (first && places.every((place) => place?.heads === first.heads && place.batch === first.batch))
    return first.heads;
  return dims.length === 4 ? dims[1]! : 1;
}

function operandsOf(
  m: Matcher,
  values: readonly string[],
  places: readonly (Place | undefined)[],
  heads: number,
  factors: readonly number[],
): { inputs: string[]; packed: boolean; factor: number } {
  const [q] = places;
  const width = q ? heads * q.depth : 0;
  const packed =
    q !== undefined &&
    places.every(
      (place, i) =>
        place?.base === q.base &&
        place.heads === heads &&
        place.offset === i * width &&
        place.columns === 3 * width,
    );
  if (packed) {
    const rows = m.reshape(q.base, [q.batch, q.tokens, 3 * width]);
    return { inputs: [rows, '', ''], packed, factor: factors[0]! * factors[1]! };
  }
  let factor = 1;
  const inputs = values.map((value, i) => {
    const place = places[i];
    if (place?.heads === heads) {
      factor *= factors[i]!;
      const rows = m.reshape(place.base, [place.batch, place.tokens, place.columns]);
      const end = place.offset + heads * place.depth;
      return end === place.columns && place.offset === 0 ? rows : m.slice(rows, [2], [place.offset], [end]);
    }
    // The heads are moved behind the tokens.
    const dims = m.dims(value);
    if (dims.length === 3) return value;
    const [batch, own, tokens, depth] = dims as [number, number, number, number];
    return m.reshape(m.transpose(value, [0, 2, 1, 3]), [batch, tokens, own * depth]);
  });
  return { inputs, packed, factor };
}

/** A mask as the operator takes it: [queries, keys], or [batch or 1, heads or 1, queries or 1, keys]. */
function maskOf(
  m: Matcher,
  mask: string,
  dims: readonly number[],
  keys: number,
  heads: number,
): { causal?: true; value?: string } | undefined {
  const own = m.dims(mask);
  const constant = m.graph.constants.get(mask);
  const queries = dims.at(-2)!;
  if (constant && queries === keys && isCausal(own, constant)) return { causal: true };
  if (own.at(-1) !== keys) return undefined;
  const lead = own.slice(0, -2);
  if (product(lead) === 1) return { value: m.reshape(mask, [1, 1, own.at(-2) ?? 1, keys]) };
  if (lead.length === 2 && dims.length === 4) return { value: mask };
  // The batch's heads are one axis.
  const batch = product(dims.slice(0, -2)) / heads;
  return lead.length === 1 && lead[0] === batch * heads
    ? { value: m.reshape(mask, [batch, heads, own.at(-2)!, keys]) }
    : undefined;
}
