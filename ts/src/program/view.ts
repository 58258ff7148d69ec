import { product } from './attributes.ts';

/** A run of `size` elements, `stride` elements apart. */
export interface Factor {
  readonly size: number;
  readonly stride: number;
}

/**
 * How the elements of a value lie in another one that it only relabels, permutes or cuts. Each axis is a list of factors, the
 * slowest first: axes that were merged although they don't follow one another in memory stay exact this way.
 */
export class View {
  readonly offset: number;
  readonly axes: readonly (readonly Factor[])[];

  private constructor(offset: number, axes: readonly (readonly Factor[])[]) {
    this.offset = offset;
    this.axes = axes.map(merged);
  }

  /** Of a whole value of this shape. */
  static of(dims: readonly number[]): View {
    let stride = product(dims);
    const axes = dims.map((size) => {
      stride /= size || 1;
      return [{ size, stride }];
    });
    return new View(0, axes);
  }

  get dims(): number[] {
    return this.axes.map((axis) => product(axis.map(({ size }) => size)));
  }

  transpose(perm: readonly number[]): View {
    return new View(
      this.offset,
      perm.map((axis) => this.axes[axis]!),
    );
  }

  /** Undefined where a new axis would cut a run of elements unevenly. */
  reshape(dims: readonly number[]): View | undefined {
    const rest = merged(this.axes.flat()).toReversed();
    const axes: Factor[][] = [];
    for (const dim of dims) {
      const axis: Factor[] = [];
      let open = dim;
      while (open > 1) {
        const next = rest.pop();
        if (!next) return undefined;
        if (next.size <= open) {
          if (open % next.size !== 0) return undefined;
          axis.push(next);
          open /= next.size;
        } else {
          if (next.size % open !== 0) return undefined;
          const inner = next.size / open;
          axis.push({ size: open, stride: next.stride * inner });
          rest.push({ size: inner, stride: next.stride });
          open = 1;
        }
      }
      axes.push(axis);
    }
    return rest.length === 0 ? new View(this.offset, axes) : undefined;
  }

  /** Undefined where the axis is of several factors, of which a part is no run. */
  slice(axis: number, start: number, length: number): View | undefined {
    const factors = this.axes[axis]!;
    if (factors.length === 0) return start === 0 && length === 1 ? this : undefined;
    const [outer, ...inner] = factors as [Factor, ...Factor[]];
    const unit = product(inner.map(({ size }) => size));
    if (start % unit !== 0 || length % unit !== 0) return undefined;
    const cut = [{ size: length / unit, stride: outer.stride }, ...inner];
    return new View(this.offset + (start / unit) * outer.stride, this.axes.with(axis, cut));
  }

  /** The same elements in the same order, from the first to the last of a value of `count` elements. */
  isWhole(count: number): boolean {
    const factors = merged(this.axes.flat());
    if (this.offset !== 0) return false;
    if (factors.length === 0) return count === 1;
    return factors.length === 1 && factors[0]!.stride === 1 && factors[0]!.size === count;
  }
}

/** Without factors of one element, and neighbours that follow one another in memory as one. */
function merged(factors: readonly Factor[]): Factor[] {
  const result: Factor[] = [];
  for (const factor of factors) {
    if (factor.size === 1) continue;
    const before = result.at(-1);
    if (before && before.stride === factor.size * factor.stride) {
      result[result.length - 1] = { size: before.size * factor.size, stride: factor.stride };
    } else {
      result.push(factor);
    }
  }
  return result;
}
