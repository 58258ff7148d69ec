import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers';
import { expectInteger } from '../native/check.ts';
import { CidError } from '../native/errors.ts';

export interface TrainTokenizerOptions {
  /** Tokens in all, with the start and end token; fewer come out when the texts hold no more pairs to merge. At least 514. */
  vocabSize: number;
  /** Pairs that occur less often are not merged. Defaults to 2. */
  minFrequency?: number;
}

const START = '<|startoftext|>';
const END = '<|endoftext|>';
const WORD_END = '</w>';
const PATTERN = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

/** The bytes' own tokens, within a word and at its end, and the two special ones. */
export const SMALLEST_VOCABULARY = 2 * 256 + 2;

/**
 * Trains a byte-level BPE in CLIP's form (lower case, CLIP's split into words, '</w>' at the end of a word, '<|startoftext|>' and
 * '<|endoftext|>' as the last two ids, so that the end token is the largest) and returns the contents of its `tokenizer.json`.
 *
 * Deterministic, and independent of the order of the texts: the most frequent pair is merged first, of equally frequent ones
 * the one whose left token has the smaller id, then whose right token has.
 *
 * Fails with a RangeError for a vocabulary smaller than {@link SMALLEST_VOCABULARY}, and with INVALID_DATA for texts without a word.
 */
export function trainTokenizer(
  texts: Iterable<string>,
  options: TrainTokenizerOptions,
): Record<string, unknown> {
  const vocabSize = expectInteger('vocabSize', options.vocabSize, SMALLEST_VOCABULARY, 1 << 24);
  const minFrequency = expectInteger('minFrequency', options.minFrequency ?? 2, 1);
  const alphabet = byteAlphabet();
  const tokens = [...alphabet, ...alphabet.map((token) => token + WORD_END)];
  const words = countWords(texts);
  if (words.size === 0) throw new CidError('INVALID_DATA', 'There are no words to train a tokenizer with');
  const merges = learnMerges(words, tokens, vocabSize - 2, minFrequency);
  return tokenizerJson(tokens, merges);
}

/** Contents of the `tokenizer_config.json` that goes with {@link trainTokenizer}'s. `contextLength` in tokens, special ones included. */
export function tokenizerConfig(contextLength: number): Record<string, unknown> {
  return {
    tokenizer_class: 'CLIPTokenizer',
    add_prefix_space: false,
    bos_token: START,
    clean_up_tokenization_spaces: true,
    do_lower_case: true,
    eos_token: END,
    errors: 'replace',
    model_max_length: expectInteger('contextLength', contextLength, 2),
    pad_token: END,
    unk_token: END,
  };
}

/**
 * The 256 bytes as printable characters in the order of GPT-2's table: bytes that print stand for themselves and come
 * first, the others follow as the characters from U+0100 on.
 */
function byteAlphabet(): string[] {
  const printable = [...range(33, 126), ...range(161, 172), ...range(174, 255)];
  const others = range(0, 255).filter((byte) => !printable.includes(byte));
  return [...printable, ...others.map((_, i) => 256 + i)].map((code) => String.fromCharCode(code));
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/** How often each word occurs, split and spelt in bytes by the very steps that the finished tokenizer takes. */
function countWords(texts: Iterable<string>): Map<string, number> {
  const steps = new HubTokenizer(tokenizerJson([], []), {});
  const counts = new Map<string, number>();
  for (const text of texts) {
    const words = steps.pre_tokenizer!(steps.normalizer!(text)) as string[];
    for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}

/** A pair of tokens with where and how often it occurs. */
interface Pair {
  readonly left: number;
  readonly right: number;
  count: number;
  readonly words: Set<number>;
}

/** Merges in order, as [left, right]; appends the new tokens to `tokens` up to `size`. */
function learnMerges(
  counts: ReadonlyMap<string, number>,
  tokens: string[],
  size: number,
  minFrequency: number,
): [string, string][] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  // In an order of their own: the sums are the same in any, but Maps keep the order of insertion.
  const sorted = [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
  const frequency = sorted.map(([, count]) => count);
  const words = sorted.map(([word]) => {
    const letters = [...word];
    return letters.map((letter, i) => ids.get(i === letters.length - 1 ? letter + WORD_END : letter)!);
  });

  const pairs = new Map<number, Pair>();
  const queue = new PairQueue();
  const add = (left: number, right: number, word: number, times: number, changed?: Set<Pair>) => {
    const key = left * 2 ** 25 + right;
    let pair = pairs.get(key);
    if (pair === undefined) pairs.set(key, (pair = { left, right, count: 0, words: new Set() }));
    pair.count += times;
    if (times > 0) pair.words.add(word);
    changed?.add(pair);
  };
  for (const [w, word] of words.entries()) {
    for (let i = 1; i < word.length; i++) add(word[i - 1], word[i], w, frequency[w]);
  }
  for (const pair of pairs.values()) queue.push(pair);

  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const best = queue.pop();
    if (best === undefined || best.count < minFrequency) break;
    const merged = tokens[best.left] + tokens[best.right];
    // Two ways to spell one token, such as a+bc and ab+c, are two merges but one token.
    const id = ids.get(merged) ?? tokens.push(merged) - 1;
    ids.set(merged, id);
    merges.push([tokens[best.left], tokens[best.right]]);
    const changed = new Set<Pair>();
    for (const w of best.words) {
      const word = words[w];
      for (let i = 1; i < word.length; i++) add(word[i - 1], word[i], w, -frequency[w], changed);
      const next = mergeWord(word, best.left, best.right, id);
      for (let i = 1; i < next.length; i++) add(next[i - 1], next[i], w, frequency[w], changed);
      words[w] = next;
    }
    for (const pair of changed) queue.push(pair);
  }
  return merges;
}

/** Every `left right` of a word as `id`, from the front. */
function mergeWord(word: readonly number[], left: number, right: number, id: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      result.push(id);
      i++;
    } else result.push(word[i]);
  }
  return result;
}

/**
 * A binary heap of pairs with the counts they had when they were pushed. A pair whose count changed is pushed again; what is
 * out of date is passed over when it comes up.
 */
class PairQueue {
  readonly #heap: { pair: Pair; count: number }[] = [];

  push(pair: Pair): void {
    if (pair.count <= 0) return;
    const heap = this.#heap;
    const entry = { pair, count: pair.count };
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(entry, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = entry;
  }

  /** The pair to merge next; undefined when there is none. */
  pop(): Pair | undefined {
    for (;;) {
      const top = this.#take();
      if (top === undefined || top.count === top.pair.count) return top?.pair;
    }
  }

  #take(): { pair: Pair; count: number } | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], last)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

function before(a: { pair: Pair; count: number }, b: { pair: Pair; count: number }): boolean {
  if (a.count !== b.count) return a.count > b.count;
  if (a.pair.left !== b.pair.left) return a.pair.left < b.pair.left;
  return a.pair.right < b.pair.right;
}

function tokenizerJson(
  tokens: readonly string[],
  merges: readonly [string, string][],
): Record<string, unknown> {
  const [startId, endId] = [tokens.length, tokens.length + 1];
  const special = (id: number, content: string) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [special(startId, START), special(endId, END)],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: PATTERN }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: {
      type: 'RobertaProcessing',
      sep: [END, endId],
      cls: [START, startId],
      trim_offsets: false,
      add_prefix_space: false,
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: END,
      continuing_subword_prefix: '',
      end_of_word_suffix: WORD_END,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries([...tokens, START, END].map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}
