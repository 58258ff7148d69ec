import { broadcastDims, floatAttribute, intAttribute, product } from '../../attributes.ts';
import type { GraphNode } from '../../graph.ts';
import type { ProductHead } from '../draft.ts';
import { type Lowering, type LoweringRules, NotNative } from '../lowering.ts';

interface Sides {
  readonly a: string;
  readonly b: string;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly alpha: number;
}

function sidesOf(node: GraphNode): Sides {
  const [a, b] = node.inputs as [string, string];
  return {
    a,
    b,
    transposeA: intAttribute(node, 'transA', 0) === 1,
    transposeB: intAttribute(node, 'transB', 0) === 1,
    alpha: floatAttribute(node, 'alpha', 1),
  };
}

/** alpha · op(a) · op(b) into a place of the product's shape, whose rows may be further apart. */
function multiply(
  l: Lowering,
  { a, b, transposeA, transposeB, alpha }: Sides,
  { ref: c, accumulate, row }: ReturnType<Lowering['writeSum']>,
): void {
  let [aDims, bDims] = [l.dims(a), l.dims(b)];
  if (aDims.length < 2) aDims = [1, ...aDims];
  if (bDims.length < 2) bDims = [...bDims, 1];
  const [columnsA, columnsB] = [aDims.at(-1)!, bDims.at(-1)!];
  const k = transposeA ? aDims.at(-2)! : columnsA;
  const n = transposeB ? bDims.at(-2)! : columnsB;
  let m = transposeA ? columnsA : aDims.at(-2)!;
  let [aBatch, bBatch] = [aDims.slice(0, -2), bDims.slice(0, -2)];
  if (bBatch.every((dim) => dim === 1) && !transposeA) {
    // One right side for all rows.
    m *= product(aBatch);
    [aBatch, bBatch] = [[], []];
  }
  const dims = broadcastDims(aBatch, bBatch)!;
  const strides = (own: readonly number[], size: number) => {
    const lead = dims.length - own.length;
    return dims.map((_, axis) => {
      const at = axis - lead;
      return at < 0 || own[at] === 1 ? 0 : product(own.slice(at + 1)) * size;
    });
  };
  const [strideA, strideB] = [
    strides(aBatch, product(aDims.slice(-2))),
    strides(bBatch, product(bDims.slice(-2))),
  ];
  const strideC = dims.map((_, axis) => product(dims.slice(axis + 1)) * m * n);
  const levels = batchLevels(dims, [strideA, strideB, strideC]);
  const pair = (pick: (level: BatchLevel) => number): [number, number] => [pick(levels[0]), pick(levels[1])];
  const [left, right] = [l.matrix(a), l.matrix(b)];
  const head: Omit<ProductHead, 'node' | 'precision'> = {
    batches: pair((level) => level.size),
    batchA: pair((level) => level.strides[0]!),
    batchB: pair((level) => level.strides[1]!),
    batchC: pair((level) => level.strides[2]!),
    m,
    n,
    k,
    rowA: left.row ?? columnsA,
    rowB: right.row ?? columnsB,
    rowC: row ?? n,
    transposeA,
    transposeB,
    accumulate,
    alpha,
    a: left.ref,
    b: right.ref,
    c,
  };
  l.product(head);
}

interface BatchLevel {
  readonly size: number;
  readonly strides: readonly number[];
}

/** The batch in two levels, of axes that follow one another on all sides. */
function batchLevels(
  dims: readonly number[],
  sides: readonly (readonly number[])[],
): [BatchLevel, BatchLevel] {
  const levels: { size: number; strides: number[] }[] = [];
  dims.forEach((size, axis) => {
    if (size === 1) return;
    const strides = sides.map((side) => side[axis]!);
    const before = levels.at(-1);
    if (before && strides.every((stride, i) => before.strides[i] === stride * size)) {
      levels[levels.length - 1] = { size: before.size * size, strides };
    } else {
      levels.push({ size, strides });
    }
  });
  if (levels.length > 2) throw new NotNative('broadcasts over more axes than the native operation has');
  const one: BatchLevel = { size: 1, strides: sides.map(() => 0) };
  return [levels.length === 2 ? levels[0]! : one, levels.at(-1) ?? one];
}

const matmul = (l: Lowering, node: GraphNode) => {
  multiply(l, sidesOf(node), l.writeSum(node.outputs[0]!));
};

export const productRules: LoweringRules = {
  MatMul: matmul,
  FusedMatMul: matmul,
  // alpha · op(a) · op(b) + beta · bias
  Gemm: (l, node) => {
    const bias = node.inputs[2] ?? '';
    if (bias === '') return matmul(l, node);
    const y = node.outputs[0]!;
    const beta = floatAttribute(node, 'beta', 1);
    const { storage } = l.write(y);
    multiply(l, sidesOf(node), { ref: { storage, offset: 0, access: 'write' }, accumulate: false });
    let added = l.operand(bias, l.dims(y));
    if (beta !== 1) {
      const scaled = l.fresh('float32', l.count(bias), `${y}.bias`);
      l.stepInto(scaled, 'multiply', [l.dense(l.place(bias), l.count(bias)), beta]);
      added = { ...added, storage: scaled, offset: 0 };
    }
    l.stepInto(l.write(y).storage, 'add', [l.dense({ storage, offset: 0 }), added]);
  },
};
