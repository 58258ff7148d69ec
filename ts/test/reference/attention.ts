/** Measures of attention as they are defined, in float64: what the operators that `eval/attention` adds to a model are held against. */

export interface AttentionMap {
  /** [rows, heads, tokens, tokens]; a row is an image or a window. */
  readonly values: ArrayLike<number>;
  readonly rows: number;
  readonly heads: number;
  readonly tokens: number;
  readonly classTokens: number;
  /** Of the patches, which come after the class tokens. */
  readonly columns: number;
  /** Pixels from a patch to the next. */
  readonly cell: number;
}

export interface AttentionMeasures {
  readonly distance: readonly number[];
  readonly entropy: readonly number[];
  readonly divergence: number;
}

export function attentionMeasures(
  map: AttentionMap,
  { renormalize = false, patches = false, smallest = 2 ** -149 } = {},
): AttentionMeasures {
  const { values, rows, heads, tokens, classTokens, columns, cell } = map;
  const at = (row: number, head: number, query: number, key: number) =>
    values[((row * heads + head) * tokens + query) * tokens + key]!;
  const far = (a: number, b: number) => {
    const [from, to] = [a - classTokens, b - classTokens];
    const down = Math.floor(from / columns) - Math.floor(to / columns);
    return cell * Math.hypot(down, (from % columns) - (to % columns));
  };
  const ln = (value: number) => Math.log(Math.max(value, smallest));
  const distance = new Array<number>(heads).fill(0);
  const entropy = new Array<number>(heads).fill(0);
  let divergence = 0;
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      for (let query = 0; query < tokens; query++) {
        let toPatches = 0;
        let sum = 0;
        for (let key = classTokens; key < tokens; key++) {
          toPatches += at(row, head, query, key);
          if (query >= classTokens) sum += at(row, head, query, key) * far(query, key);
        }
        if (query >= classTokens)
          distance[head]! += sum / (renormalize ? toPatches : 1) / (tokens - classTokens) / rows;
        if (!patches || query >= classTokens) {
          let own = 0;
          for (let key = patches ? classTokens : 0; key < tokens; key++) {
            const share = at(row, head, query, key) / (patches ? toPatches : 1);
            if (share > 0) own -= share * Math.log(share);
          }
          entropy[head]! += own / (patches ? tokens - classTokens : tokens) / rows;
        }
        for (let other = 0; other < heads; other++) {
          if (other === head) continue;
          let kl = 0;
          for (let key = 0; key < tokens; key++) {
            const share = at(row, head, query, key);
            kl += share * (ln(share) - ln(at(row, other, query, key)));
          }
          divergence += kl / tokens / rows / (heads * (heads - 1));
        }
      }
    }
  }
  return { distance, entropy, divergence };
}
