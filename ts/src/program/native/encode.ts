import { PRECISIONS } from '../precision.ts';
import { factorsOf, inputsOf, isDense, same, stridesOver } from './chains.ts';
import { type ChainDraft, type Draft, elementTypeNumber, type Ref, STEPS, type Storage } from './draft.ts';

/** Where a reference lies: the number of its space, bytes from its beginning, and bytes from one part of the batch to the next. */
export type Locate = (ref: Ref) => readonly [space: number, offset: number, step: number];

/** The number of a chain's first step as an operand, and what stands for a plain number (native/include/clipcid/ops.h). */
const FIRST_STEP = 12;
const NUMBER = 255;

/**
 * A draft as numbers: its kind, how many numbers follow, and these in the order in which the native core reads them
 * (native/core/program_operations.cpp).
 */
export function encode(draft: Draft, operations: readonly string[], locate: Locate): number[] {
  const [op, numbers] =
    draft.kind === 'fixed'
      ? [
          draft.op,
          draft.code.flatMap((entry) => (typeof entry === 'number' ? [entry] : located(entry, locate))),
        ]
      : draft.head
        ? ['product', encodeProduct(draft, locate)]
        : ['chain', encodeChain(draft, undefined, locate)];
  return [operations.indexOf(op), numbers.length, ...numbers];
}

const located = (ref: Ref | null, locate: Locate): readonly number[] => (ref ? locate(ref) : [-1, 0, 0]);

function encodeProduct(draft: ChainDraft, locate: Locate): number[] {
  const head = draft.head!;
  const { batches, batchA, batchB, batchC } = head;
  const levels = [0, 1].flatMap((level) => [batches[level]!, batchA[level]!, batchB[level]!, batchC[level]!]);
  const { packedFloats } = head.b;
  const flags = [head.transposeA, head.transposeB, packedFloats !== undefined, head.accumulate].map(Number);
  const c = draft.nodes.length > 0 ? memoryOf(draft) : head.c;
  return [
    ...levels,
    ...[head.m, head.n, head.k, head.rowA, head.rowB, head.rowC],
    ...flags,
    PRECISIONS.indexOf(head.precision),
    head.alpha,
    ...locate(head.a),
    ...(packedFloats === undefined ? [] : [packedFloats]),
    ...locate(head.b),
    ...locate(c),
    ...(draft.nodes.length > 0 ? [1, ...encodeChain(draft, c, locate)] : [0]),
  ];
}

/** Where a product with a chain is made: the memory of the first result that can hold it. */
export function memoryOf({ head, outputs }: ChainDraft): Ref {
  const room = outputs.find(({ space, type }) => space === 'arena' && type === 'float32');
  return { storage: room ?? head!.c.storage, offset: 0, access: 'write' };
}

function encodeChain(draft: ChainDraft, product: Ref | undefined, locate: Locate): number[] {
  const { nodes, outputs, integers, count } = draft;
  const axes = factorsOf(draft)!;
  const inputs = inputsOf(draft);
  const dense = { storage: product?.storage as Storage, offset: 0, factors: [{ size: count, stride: 1 }] };
  const all = product ? [dense, ...inputs] : inputs;
  const read = (storage: Storage, offset: number) => locate({ storage, offset, access: 'read' });
  const made = new Map<Storage, number>();
  if (draft.head) made.set(draft.head.c.storage, 0);
  const steps = nodes.flatMap(({ step, operands, p, q, out }, index) => {
    let number = p;
    const places = [0, 1, 2].map((i) => {
      const operand = operands[i];
      if (operand === undefined) return NUMBER;
      if (typeof operand === 'number') {
        number = operand;
        return NUMBER;
      }
      const step = made.get(operand.storage);
      if (step !== undefined && isDense(operand, count)) return step;
      const input = inputs.findIndex((candidate) => same(candidate, operand));
      return product ? input + 1 : input;
    });
    if (out.space === 'arena') made.set(out, FIRST_STEP + index);
    return [STEPS.indexOf(step), ...places, number, q];
  });
  const from = (storage: Storage) => {
    const index = nodes.findLastIndex(({ out }) => out === storage);
    return index < 0 ? 0 : FIRST_STEP + index;
  };
  return [
    integers ? 1 : 0,
    axes.length,
    ...axes,
    all.length,
    ...all.flatMap((operand) => [
      elementTypeNumber(operand.storage.type)!,
      ...stridesOver(operand, axes),
      ...read(operand.storage, operand.offset),
    ]),
    nodes.length,
    ...steps,
    outputs.length,
    ...outputs.flatMap((storage) => [
      elementTypeNumber(storage.type)!,
      from(storage),
      ...locate({ storage, offset: 0, access: 'write' }),
    ]),
  ];
}
