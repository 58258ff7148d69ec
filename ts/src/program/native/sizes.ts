import { product } from '../attributes.ts';
import type { Draft, FixedDraft, ProductHead, Ref } from './draft.ts';

/** What is numbered along one direction of an operation, and the tensor that has so many. */
interface Sized {
  readonly count: number;
  /** What they are, in the plural. */
  readonly what: string;
  readonly tensor: string;
}

/**
 * That a device can number what operations go over: a GPU has 32 bits for rows, columns and the depth of products, for pixels of
 * convolutions and for rows that are scattered; elements have 64, and may be as many as there is memory for. Fails with a RangeError that
 * names the tensor.
 *
 * @param most How many a device numbers (`DeviceTraits.mostLines`).
 */
export function checkSizes(drafts: readonly Draft[], most: number): void {
  for (const draft of drafts) {
    const sizes = draft.kind === 'fixed' ? fixedSizes(draft) : draft.head ? productSizes(draft.head) : [];
    for (const { count, what, tensor } of sizes) {
      if (count <= most) continue;
      throw new RangeError(
        `Expected at most ${most} ${what} for a tensor on a GPU but received ${count} of '${tensor}': take a smaller micro-batch`,
      );
    }
  }
}

function productSizes({ batches, m, n, k, a, b, c }: ProductHead): Sized[] {
  return [
    { count: product(batches), what: 'matrices', tensor: c.storage.name },
    { count: m, what: 'rows', tensor: a.storage.name },
    { count: k, what: 'values a row', tensor: a.storage.name },
    { count: n, what: 'columns', tensor: b.storage.name },
  ];
}

/** Numbers as the native core reads them (native/core/program_operations.cpp, program_images.cpp). */
function fixedSizes({ op, code }: FixedDraft): Sized[] {
  const refs = code.filter((entry): entry is Ref => typeof entry === 'object' && entry !== null);
  const at = (index: number) => code[index] as number;
  switch (op) {
    case 'conv':
    case 'convInputGradient':
    case 'convWeightGradient': {
      // Images, and height and width of the input; height and width of the output.
      const [input, output] = [at(0) * at(1) * at(2), at(0) * at(6) * at(11)];
      // Operands are x, w, [bias,] y; dy, w, dx; x, dy, dw.
      const [x, y] = op === 'conv' ? [0, -1] : op === 'convInputGradient' ? [-1, 0] : [0, 1];
      return [
        { count: input, what: 'pixels', tensor: refs.at(x)!.storage.name },
        { count: output, what: 'pixels', tensor: refs.at(y)!.storage.name },
      ];
    }
    case 'scatter':
      return [
        { count: at(0) * at(3), what: 'rows', tensor: refs[0]!.storage.name },
        { count: at(0) * at(1), what: 'rows', tensor: refs[2]!.storage.name },
      ];
    default:
      return [];
  }
}
