/**
 * Test data that any language can make again: x ← (1103515245 x + 12345) mod 2³¹ from `seed`, each as x / 2³⁰ − 1, in [−1, 1).
 */
export function sequence(length: number, seed: number): Float32Array {
  const values = new Float32Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    // The product modulo 2³² is right modulo 2³¹ too.
    state = (Math.imul(1103515245, state) + 12345) & 0x7fffffff;
    values[i] = state / 2 ** 30 - 1;
  }
  return values;
}
