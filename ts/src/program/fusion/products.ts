import { floatAttribute, intAttribute, intsAttribute, product, sameDims } from '../attributes.ts';
import { MICROSOFT } from '../emitter.ts';
import { permutation } from '../shapes/layout.ts';
import type { Factor } from '../view.ts';
import type { Matcher, Rewrite } from './matcher.ts';

/** x · W + b with x of any rank as one Gemm over rows, which adds the bias on its way. */
export const linear: Rewrite = (m, node) => {
  for (const [multiplied, bias] of [node.inputs, node.inputs.toReversed()] as [string, string][]) {
    if (!m.isParameter(bias) || m.dims(bias).length !== 1) continue;
    const matmul = m.made(multiplied, 'MatMul');
    if (matmul) {
      const [x, w] = matmul.inputs as [string, string];
      if (m.dims(x).length < 2 || m.dims(w).length !== 2 || m.dims(bias)[0] !== m.dims(w)[1]) continue;
      const { matrix, transB } = asItLies(m, w);
      return overRows(m, x, [matrix, bias], transB);
    }
    // The product's rows have been put in another order already.
    const found = orderOfRows(m, multiplied);
    const gemm = found && m.made(found.base, 'Gemm');
    if (gemm?.inputs.length !== 2 || m.dims(bias)[0] !== m.dims(found!.base)[1]) continue;
    const y = m.graph.emit('Gemm', [...gemm.inputs, bias], gemm.attributes);
    return inOrder(m, y, found!.order, m.dims(multiplied));
  }
  return undefined;
};

/** A matrix whose transpose is written out, and whether the product is to turn it. */
function asItLies(m: Matcher, w: string): { matrix: string; transB: number } {
  const turned = m.made(w, 'Transpose');
  if (!turned || permutation(turned, 2)[0] === 0) return { matrix: w, transB: 0 };
  return { matrix: turned.inputs[0]!, transB: 1 };
}

/** A product whose rows are those of a value in another order: it takes them as they lie, and its result is put in that order. */
export const permutedRows: Rewrite = (m, node) => {
  const [x, w, ...rest] = node.inputs as [string, string, ...string[]];
  const plain =
    m.dims(w).length === 2 &&
    (node.op === 'MatMul' ||
      (intAttribute(node, 'transA', 0) === 0 && floatAttribute(node, 'alpha', 1) === 1)) &&
    (rest[0] === undefined || rest[0] === '' || m.dims(rest[0]).length === 1);
  if (!plain || m.dims(x).length < 2 || !orderOfRows(m, x)) return undefined;
  if (node.op === 'MatMul') {
    const { matrix, transB } = asItLies(m, w);
    return overRows(m, x, [matrix], transB);
  }
  return overRows(m, x, [w, ...rest], intAttribute(node, 'transB', 0), floatAttribute(node, 'beta', 1));
};

/** The factors of x's rows, where x is all rows of a value in another order. */
function orderOfRows(m: Matcher, x: string): { base: string; order: readonly Factor[] } | undefined {
  const { base, view } = m.trace(x);
  const count = product(m.dims(base));
  const width = m.dims(x).at(-1)!;
  const last = view.axes.at(-1)!;
  if (view.isWhole(count) || view.offset !== 0 || last.length !== 1 || last[0]!.stride !== 1)
    return undefined;
  const order = view.axes.slice(0, -1).flat();
  // All rows are there, each once.
  let stride = width;
  for (const factor of order.toSorted((a, b) => a.stride - b.stride)) {
    if (factor.stride !== stride) return undefined;
    stride *= factor.size;
  }
  return stride === count ? { base, order } : undefined;
}

/** x [..., K] times a matrix as one Gemm over its rows. */
function overRows(m: Matcher, x: string, others: readonly string[], transB: number, beta = 1): string {
  const dims = m.dims(x);
  const [rows, width] = [product(dims.slice(0, -1)), dims.at(-1)!];
  const columns = m.dims(others[0]!)[transB ? 0 : 1]!;
  const attributes = { ...(transB ? { transB } : {}), ...(beta === 1 ? {} : { beta }) };
  const multiply = (value: string) =>
    m.graph.emit('Gemm', [m.reshape(value, [rows, width]), ...others], attributes);
  const found = orderOfRows(m, x);
  if (!found) return m.reshape(multiply(x), [...dims.slice(0, -1), columns]);
  return inOrder(m, multiply(found.base), found.order, [...dims.slice(0, -1), columns]);
}

/** Rows [R, N], which lie as the factors' strides say, in the order of the factors. */
function inOrder(m: Matcher, rows: string, order: readonly Factor[], dims: readonly number[]): string {
  const lying = order.toSorted((a, b) => b.stride - a.stride);
  const y = m.reshape(rows, [...lying.map(({ size }) => size), dims.at(-1)!]);
  return m.reshape(m.transpose(y, [...order.map((factor) => lying.indexOf(factor)), order.length]), dims);
}

/** A factor on a batched product becomes its alpha. */
export const scaledProduct: Rewrite = (m, node) => {
  const scaled = m.scaled(node);
  if (!scaled) return undefined;
  const matmul = m.made(scaled[1], 'MatMul') ?? m.made(scaled[1], 'FusedMatMul');
  if (!matmul || m.dims(scaled[1]).length < 3 || m.dims(matmul.inputs[1]!).length < 3) return undefined;
  const alpha = floatAttribute(matmul, 'alpha', 1) * scaled[0];
  return m.graph.emit('FusedMatMul', matmul.inputs, { ...matmul.attributes, alpha }, MICROSOFT);
};

/** A · Bᵀ with a Transpose written out: the product reads B as it lies. */
export const transposedProduct: Rewrite = (m, node) => {
  const [a, b] = node.inputs as [string, string];
  const turned = m.made(b, 'Transpose');
  if (!turned || m.dims(b).length < 3) return undefined;
  const source = turned.inputs[0]!;
  const perm = [...permutation(turned, m.dims(source).length)];
  const rank = perm.length;
  // Only where what stays of the permutation moves whole rows.
  if (perm[rank - 2] !== rank - 1) return undefined;
  [perm[rank - 2], perm[rank - 1]] = [perm[rank - 1]!, perm[rank - 2]!];
  return m.graph.emit('FusedMatMul', [a, m.transpose(source, perm)], { transB: 1 }, MICROSOFT);
};

/** A convolution whose windows tile the image, as in a patch embedding: one product over patches. */
export const patches: Rewrite = (m, node) => {
  const [x, w, bias] = node.inputs as [string, string, string | undefined];
  const [dims, kernel] = [m.dims(x), m.dims(w).slice(2)];
  const strides = intsAttribute(node, 'strides') ?? kernel.map(() => 1);
  const pads = intsAttribute(node, 'pads') ?? [];
  const tiles =
    kernel.length === 2 &&
    product(kernel) > 1 &&
    sameDims(kernel, strides) &&
    intAttribute(node, 'group', 1) === 1 &&
    pads.every((pad) => pad === 0) &&
    kernel.every((size, i) => dims[i + 2]! % size === 0) &&
    !('auto_pad' in node.attributes && node.attributes.auto_pad!.value !== 'NOTSET') &&
    (intsAttribute(node, 'dilations') ?? []).every((dilation) => dilation === 1);
  if (!tiles) return undefined;
  const [images, channels, height, width] = dims as [number, number, number, number];
  const [kh, kw] = kernel as [number, number];
  const [rows, columns, features] = [height / kh, width / kw, m.dims(w)[0]!];
  const blocks = m.transpose(m.reshape(x, [images, channels, rows, kh, columns, kw]), [0, 2, 4, 1, 3, 5]);
  const flat = m.reshape(blocks, [images * rows * columns, channels * kh * kw]);
  const weight = m.reshape(w, [features, channels * kh * kw]);
  const y = m.graph.emit('Gemm', bias ? [flat, weight, bias] : [flat, weight], { transB: 1 });
  const turned = m.transpose(m.reshape(y, [images, rows * columns, features]), [0, 2, 1]);
  return m.reshape(turned, [images, features, rows, columns]);
};
