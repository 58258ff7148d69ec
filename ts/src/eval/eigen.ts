import { setImmediate } from 'node:timers/promises';

/** Milliseconds for which the event loop is kept waiting. */
const LONGEST = 20;

/**
 * Eigenvalues of a symmetric matrix [n, n], ascending: Householder's reduction to three diagonals, then implicit QL steps (Bowdler, Martin,
 * Reinsch and Wilkinson, 1968). 4/3 n³ multiplications. The matrix is used up.
 */
export async function symmetricEigenvalues(a: Float64Array, n: number): Promise<Float64Array> {
  const diagonal = new Float64Array(n);
  const beside = new Float64Array(n);
  await tridiagonalize(a, n, diagonal, beside);
  iterate(diagonal, beside, n);
  return diagonal.sort();
}

/** Leaves the diagonal and, from index 1 on, what is beside it. */
async function tridiagonalize(
  a: Float64Array,
  n: number,
  diagonal: Float64Array,
  beside: Float64Array,
): Promise<void> {
  const p = new Float64Array(n);
  let rested = performance.now();
  for (let i = n - 1; i > 0; i--) {
    if (performance.now() - rested > LONGEST) {
      await setImmediate();
      rested = performance.now();
    }
    const row = a.subarray(i * n, i * n + i);
    let scale = 0;
    for (let k = 0; k < i; k++) scale += Math.abs(row[k]!);
    if (i === 1 || scale === 0) {
      beside[i] = row[i - 1]!;
      diagonal[i] = a[i * n + i]!;
      continue;
    }
    let square = 0;
    for (let k = 0; k < i; k++) {
      row[k]! /= scale;
      square += row[k]! * row[k]!;
    }
    const last = row[i - 1]!;
    const root = last >= 0 ? -Math.sqrt(square) : Math.sqrt(square);
    beside[i] = scale * root;
    diagonal[i] = a[i * n + i]!;
    // The reflection is I − u uᵀ / h.
    const h = square - last * root;
    row[i - 1] = last - root;
    p.fill(0, 0, i);
    for (let j = 0; j < i; j++) {
      const line = j * n;
      const u = row[j]!;
      let sum = 0;
      for (let k = 0; k < j; k++) {
        sum += a[line + k]! * row[k]!;
        p[k]! += a[line + k]! * u;
      }
      p[j]! += sum + a[line + j]! * u;
    }
    let along = 0;
    for (let j = 0; j < i; j++) {
      p[j]! /= h;
      along += p[j]! * row[j]!;
    }
    const half = along / (2 * h);
    for (let j = 0; j < i; j++) p[j]! -= half * row[j]!;
    for (let j = 0; j < i; j++) {
      const [u, q] = [row[j]!, p[j]!];
      const line = j * n;
      for (let k = 0; k <= j; k++) a[line + k]! -= u * p[k]! + q * row[k]!;
    }
  }
  diagonal[0] = a[0]!;
}

function iterate(diagonal: Float64Array, beside: Float64Array, n: number): void {
  for (let i = 1; i < n; i++) beside[i - 1] = beside[i]!;
  beside[n - 1] = 0;
  for (let l = 0; l < n; l++) {
    for (;;) {
      let m = l;
      for (; m < n - 1; m++) {
        const size = Math.abs(diagonal[m]!) + Math.abs(diagonal[m + 1]!);
        if (Math.abs(beside[m]!) <= Number.EPSILON * size) break;
      }
      if (m === l) break;
      let g = (diagonal[l + 1]! - diagonal[l]!) / (2 * beside[l]!);
      let r = Math.hypot(g, 1);
      g = diagonal[m]! - diagonal[l]! + beside[l]! / (g + (g >= 0 ? r : -r));
      let [s, c, p] = [1, 1, 0];
      let i = m - 1;
      for (; i >= l; i--) {
        const f = s * beside[i]!;
        const b = c * beside[i]!;
        r = Math.hypot(f, g);
        beside[i + 1] = r;
        if (r === 0) {
          diagonal[i + 1]! -= p;
          beside[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = diagonal[i + 1]! - p;
        r = (diagonal[i]! - g) * s + 2 * c * b;
        p = s * r;
        diagonal[i + 1] = g + p;
        g = c * r - b;
      }
      if (i >= l) continue;
      diagonal[l]! -= p;
      beside[l] = g;
      beside[m] = 0;
    }
  }
}
