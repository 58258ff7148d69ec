import { nearest } from '../kernels/nearest.ts';
import type { Matrix } from '../kernels/rows.ts';
import { failRange } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import type { ImageImageResult, ImageTextResult, RecallResult } from './types.ts';

const DEPTHS = [1, 5, 10] as const;
type Depth = '1' | '5' | '10';

/** Entries of one call's result at most: what a whole ranking of many queries is cut into. */
const MOST_ENTRIES = 2 ** 24;

/**
 * Share of the queries with at least one right answer among the first 1, 5 and 10 of `base` by cosine, ties to the smaller index.
 *
 * @param relevant For each query the rows of `base` that are right. A query without any is left out.
 */
export async function retrieval(
  queries: Matrix,
  base: Matrix,
  relevant: readonly (readonly number[])[],
  options: KernelOptions = {},
): Promise<RecallResult> {
  if (relevant.length !== queries.rows) failRange(`${queries.rows} lists`, 'relevant', relevant);
  if (queries.rows === 0 || base.rows === 0) return recallOf([], base.rows);
  const k = Math.min(10, base.rows);
  const { indices } = await nearest(queries, base, { ...options, k });
  const ranks: RankedQuery[] = [];
  relevant.forEach((right, query) => {
    if (right.length === 0) return;
    const wanted = new Set(right);
    const rank = indices.subarray(query * k, (query + 1) * k).findIndex((index) => wanted.has(index));
    ranks.push({ first: rank < 0 ? Number.POSITIVE_INFINITY : rank, right: wanted.size, of: base.rows });
  });
  return recallOf(ranks, base.rows);
}

interface RankedQuery {
  /** Place of the first right answer, from 0. */
  first: number;
  /** How many answers are right, of how many. */
  right: number;
  of: number;
}

function recallOf(queries: readonly RankedQuery[], candidates: number): RecallResult {
  const mean = (value: (query: RankedQuery, depth: number) => number) =>
    Object.fromEntries(
      DEPTHS.map((depth) => [
        depth,
        queries.reduce((sum, query) => sum + value(query, depth), 0) / Math.max(1, queries.length),
      ]),
    ) as Record<Depth, number>;
  return {
    queries: queries.length,
    candidates,
    recall: mean(({ first }, depth) => (first < depth ? 1 : 0)),
    chance: mean(({ right, of }, depth) => chanceOfHit(of, right, depth)),
  };
}

/** Chance that one of `right` answers is among `depth` drawn from `of` without putting back. */
export function chanceOfHit(of: number, right: number, depth: number): number {
  let none = 1;
  for (let i = 0; i < depth && i < of; i++) none *= Math.max(0, (of - right - i) / (of - i));
  return 1 - none;
}

/**
 * Image-text retrieval both ways, with any number of captions an image and of images a caption.
 *
 * @param captions For each image the rows of `texts` that are its captions.
 */
export async function imageTextRetrieval(
  images: Matrix,
  texts: Matrix,
  captions: readonly (readonly number[])[],
  options: KernelOptions = {},
): Promise<ImageTextResult> {
  const owners: number[][] = Array.from({ length: texts.rows }, () => []);
  captions.forEach((own, image) => {
    for (const text of own) owners[text]!.push(image);
  });
  return {
    imageToText: await retrieval(images, texts, captions, options),
    textToImage: await retrieval(texts, images, owners, options),
  };
}

/**
 * Retrieval of images of the same group among the images of another domain, over whole rankings by cosine with ties to the smaller index.
 * Images of the query's own domain are no candidates; an image without a domain is a domain of its own. Queries without a right candidate
 * are left out. `candidates` is the mean number of candidates.
 */
export async function imageImageRetrieval(
  images: Matrix,
  groups: readonly (string | undefined)[],
  domains: readonly (string | undefined)[],
  options: KernelOptions = {},
): Promise<ImageImageResult> {
  const { rows, dim, data } = images;
  if (groups.length !== rows) failRange(`${rows} groups`, 'groups', groups);
  if (domains.length !== rows) failRange(`${rows} domains`, 'domains', domains);
  const allowed = (query: number, row: number) =>
    row !== query && (domains[query] === undefined || domains[row] !== domains[query]);
  const ranked: RankedQuery[] = [];
  const hits = new Map<string, { queries: number; hits: number }>();
  let precision = 0;
  let candidates = 0;
  const chunk = Math.max(1, Math.floor(MOST_ENTRIES / Math.max(1, rows)));
  for (let from = 0; from < rows; from += chunk) {
    const count = Math.min(chunk, rows - from);
    const queries = { ...images, data: data.subarray(from * dim, (from + count) * dim), rows: count };
    const { indices } = await nearest(queries, images, { ...options, k: rows });
    for (let i = 0; i < count; i++) {
      const query = from + i;
      const group = groups[query];
      if (group === undefined) continue;
      let place = 0;
      let first = Number.POSITIVE_INFINITY;
      let right = 0;
      let sum = 0;
      for (const row of indices.subarray(i * rows, (i + 1) * rows)) {
        if (!allowed(query, row)) continue;
        if (groups[row] === group) {
          if (right === 0) first = place;
          right++;
          sum += right / (place + 1);
        }
        place++;
      }
      if (right === 0) continue;
      ranked.push({ first, right, of: place });
      precision += sum / right;
      candidates += place;
      const own = hits.get(group) ?? { queries: 0, hits: 0 };
      hits.set(group, { queries: own.queries + 1, hits: own.hits + (first === 0 ? 1 : 0) });
    }
  }
  const shares = [...hits.values()].map((own) => own.hits / own.queries);
  const queries = Math.max(1, ranked.length);
  return {
    ...recallOf(ranked, Math.round(candidates / queries)),
    meanAveragePrecision: precision / queries,
    recall1PerConcept: shares.reduce((sum, share) => sum + share, 0) / Math.max(1, shares.length),
    concepts: shares.length,
  };
}
