import { CidError } from '../native/errors.ts';
import { symmetricEigenvalues } from './eigen.ts';

/** How much of their space embeddings use. Low ranks and a high cosine mean that they have collapsed towards each other. */
export interface EmbeddingSpread {
  readonly images: number;
  readonly dim: number;
  /** exp(entropy) of the singular values of the unit rows over their sum: 1 for one direction, min(images, dim) for as many equal ones. */
  readonly effectiveRank: number;
  /** The same after the mean row is taken away. 0 where all rows are equal. */
  readonly centredEffectiveRank: number;
  /** Mean cosine of two different images; null for one image. */
  readonly meanCosine: number | null;
}

/** Takes rows a few at a time and keeps a [dim, dim] sum of products. */
export class SpreadMeter {
  readonly #dim: number;
  readonly #products: Float64Array;
  readonly #sum: Float64Array;
  readonly #row: Float64Array;
  #rows = 0;

  constructor(dim: number) {
    this.#dim = dim;
    this.#products = new Float64Array(dim * dim);
    this.#sum = new Float64Array(dim);
    this.#row = new Float64Array(dim);
  }

  /** Adds rows [n, dim]. Fails with INVALID_DATA for one that is zero, NaN or infinite. */
  add(rows: Float32Array): void {
    const dim = this.#dim;
    const row = this.#row;
    for (let from = 0; from < rows.length; from += dim) {
      let square = 0;
      for (let k = 0; k < dim; k++) square += rows[from + k]! ** 2;
      if (!(square > 0 && square < Number.POSITIVE_INFINITY)) {
        throw new CidError('INVALID_DATA', `The embedding of image ${this.#rows} is zero, NaN or infinite`);
      }
      const scale = 1 / Math.sqrt(square);
      for (let k = 0; k < dim; k++) {
        row[k] = rows[from + k]! * scale;
        this.#sum[k]! += row[k]!;
      }
      for (let i = 0; i < dim; i++) {
        const value = row[i]!;
        for (let k = 0; k <= i; k++) this.#products[i * dim + k]! += value * row[k]!;
      }
      this.#rows++;
    }
  }

  async result(): Promise<EmbeddingSpread> {
    const [dim, rows, sum] = [this.#dim, this.#rows, this.#sum];
    if (rows === 0) throw new CidError('INVALID_DATA', 'There are no embeddings');
    let square = 0;
    for (let k = 0; k < dim; k++) square += sum[k]! ** 2;
    const centred = this.#products.slice();
    for (let i = 0; i < dim; i++) {
      for (let k = 0; k <= i; k++) centred[i * dim + k]! -= (sum[i]! * sum[k]!) / rows;
    }
    return {
      images: rows,
      dim,
      effectiveRank: await effectiveRank(this.#products.slice(), dim, rows),
      centredEffectiveRank: await effectiveRank(centred, dim, rows),
      meanCosine: rows > 1 ? (square - rows) / (rows * (rows - 1)) : null,
    };
  }
}

/**
 * exp of the entropy of singular values over their sum (Roy and Vetterli, "The effective rank", 2007), from the lower triangle of the rows'
 * [dim, dim] sum of products, which is used up. What is below the rounding of `rows` unit rows counts as 0.
 */
async function effectiveRank(products: Float64Array, dim: number, rows: number): Promise<number> {
  for (let i = 0; i < dim; i++) {
    for (let k = 0; k < i; k++) products[k * dim + i] = products[i * dim + k]!;
  }
  const floor = rows * dim * Number.EPSILON;
  const eigenvalues = await symmetricEigenvalues(products, dim);
  const values = eigenvalues.map((value) => (value > floor ? Math.sqrt(value) : 0));
  const total = values.reduce((sum, value) => sum + value, 0);
  if (total === 0) return 0;
  let entropy = 0;
  for (const value of values) if (value > 0) entropy -= (value / total) * Math.log(value / total);
  return Math.exp(entropy);
}
