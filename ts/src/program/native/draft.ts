import type { Constant, DataType } from '../graph.ts';
import type { Precision } from '../precision.ts';

/** A run of elements that lie together in one of an engine's spaces of memory. */
export interface Storage {
  readonly type: DataType;
  /** Elements; of one part of the batch where `ofBatch`. */
  readonly count: number;
  readonly space: 'arena' | 'parameters' | 'gradients' | 'constants';
  /** For parameters and their gradients: elements before it in the flat buffer. */
  readonly start?: number;
  readonly constant?: Constant;
  /** What it is called in tables. */
  readonly name: string;
  /** Differs from part to part of the batch, because it depends on the inputs. */
  readonly ofBatch: boolean;
}

/** Where an operand of an operation lies. */
export interface Ref {
  readonly storage: Storage;
  /** Elements from the storage's beginning. */
  readonly offset: number;
  /** What is updated is read and written. */
  readonly access: 'read' | 'write' | 'update';
}

/** An operation of the native core: its numbers in their order, with operands, which become numbers once memory is planned. Null is a null pointer. */
export interface FixedDraft {
  readonly kind: 'fixed';
  readonly op: string;
  readonly code: readonly (number | Ref | null)[];
  readonly flops: number;
  /** Names of the nodes that it does the work of. */
  readonly nodes: readonly string[];
}

/** A run of `size` elements of the flat index of a chain, `stride` apart in the operand. */
export interface Factor {
  readonly size: number;
  readonly stride: number;
}

/** A value as elementwise operations see it, in factors of their flat index, the slowest first. */
export interface ChainOperand {
  readonly storage: Storage;
  readonly offset: number;
  readonly factors: readonly Factor[];
}

export interface ChainNode {
  /** A name of {@link STEPS}. */
  readonly step: string;
  /** Of plain numbers there is at most one. */
  readonly operands: readonly (ChainOperand | number)[];
  readonly p: number;
  readonly q: number;
  /** Dense. */
  readonly out: Storage;
  readonly node: string;
}

/** A product of matrices, to which a chain may be added. */
export interface ProductHead {
  readonly batches: readonly [number, number];
  readonly batchA: readonly [number, number];
  readonly batchB: readonly [number, number];
  readonly batchC: readonly [number, number];
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly rowA: number;
  readonly rowB: number;
  readonly rowC: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly accumulate: boolean;
  readonly precision: Precision;
  readonly alpha: number;
  readonly a: Ref;
  /** What is packed instead, where it is. */
  readonly b: Ref & { readonly packedFloats?: number };
  readonly c: Ref;
  readonly node: string;
}

/** Elementwise operations over the same elements in one pass, behind a product where there is one. */
export interface ChainDraft {
  readonly kind: 'chain';
  readonly head: ProductHead | undefined;
  /** Elements. */
  readonly count: number;
  readonly integers: boolean;
  readonly nodes: readonly ChainNode[];
  /** Which results are stored: those that something outside reads, and updates in place. */
  readonly outputs: readonly Storage[];
}

export type Draft = FixedDraft | ChainDraft;

/** Elementwise operations in the order of their numbers in the native core (native/include/clipcid/ops.h). */
export const STEPS: readonly string[] = (
  'copy negate absolute sign squareRoot reciprocal exponential logarithm sine cosine floor ceil tanh sigmoid erf softplus relu ' +
  'leakyRelu elu hardSigmoid hardSwish gelu quickGelu not add subtract multiply divide power modulo minimum maximum equal less ' +
  'lessOrEqual greater greaterOrEqual and or geluGradient quickGeluGradient hardSwishGradient select multiplyAdd'
).split(' ');

export const ELEMENT_TYPES = ['float32', 'int64', 'int32', 'bool'] as const;

/** The number of an element type in the native core; undefined for one that it lacks. */
export function elementTypeNumber(type: DataType): number | undefined {
  const index = (ELEMENT_TYPES as readonly DataType[]).indexOf(type === 'uint8' ? 'bool' : type);
  return index < 0 ? undefined : index;
}

export function elementBytes(type: DataType): number {
  if (type === 'int64' || type === 'float64') return 8;
  return type === 'float32' || type === 'int32' ? 4 : type === 'float16' ? 2 : 1;
}

/** Operands of a draft, in any order. */
export function refsOf(draft: Draft): Ref[] {
  if (draft.kind === 'fixed')
    return draft.code.filter((entry): entry is Ref => typeof entry === 'object' && entry !== null);
  const own = new Set<Storage>(draft.nodes.map(({ out }) => out));
  if (draft.head) own.add(draft.head.c.storage);
  const refs: Ref[] = draft.head ? [draft.head.a, draft.head.b] : [];
  if (draft.head?.accumulate) refs.push({ ...draft.head.c, access: 'update' });
  for (const { operands } of draft.nodes) {
    for (const operand of operands) {
      if (typeof operand === 'number') continue;
      // What the chain makes itself is in registers, but for what it updates in place.
      if (own.has(operand.storage) && operand.storage.space === 'arena') continue;
      refs.push({ storage: operand.storage, offset: operand.offset, access: 'read' });
    }
  }
  for (const storage of draft.outputs) refs.push({ storage, offset: 0, access: 'write' });
  return refs;
}
