/**
 * Central differences of a function of float32 values, for comparison with a gradient. The steps are powers of two that
 * float32 holds exactly beside values of about 1.
 */
export function differences(values: Float32Array, of: (values: Float32Array) => number): Float64Array {
  const step = 2 ** -10;
  return Float64Array.from(values, (value, i) => {
    const at = (moved: number) => {
      const copy = values.slice();
      copy[i] = moved;
      return { x: copy[i]!, y: of(copy) };
    };
    const [a, b] = [at(value - step), at(value + step)];
    return (b.y - a.y) / (b.x - a.x);
  });
}

/** Largest difference between two vectors over the largest element of the second. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let most = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    most = Math.max(most, Math.abs(actual[i]! - expected[i]!));
    size = Math.max(size, Math.abs(expected[i]!));
  }
  return most / size;
}
