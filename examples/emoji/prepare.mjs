/**
 * Makes the demo's data set out of two npm packages: 64 x 64 drawings of the same emoji by two vendors, with names.
 *
 *   node examples/emoji/prepare.mjs --out DIR [--seed N]
 *
 * writes into DIR
 *   train.jsonl, heldout.jsonl   a line an image: key, image (relative to DIR), captions, concept, emoji, category, subcategory, vendor, variation
 *   variations.jsonl             a line a set of skin-tone variations (one emoji, one vendor): split, vendor, emoji, keys
 *   classes.json                 categories, subcategories and the templates they are put into for zero-shot
 *   prepare.json                 seed, counts, and what was skipped and why
 *
 * The split is by concept, so that nothing of a held-out concept is ever seen in training. What counts as one concept:
 * - all skin tones, genders and directions of an emoji ("man firefighter", "woman firefighter", "firefighter" are one), also where
 *   Unicode has unrelated codes for them (prince, princess and person with crown);
 * - all families; all couples kissing; all couples with heart; all couples holding hands;
 * - emoji that some vendor draws with the same file: flags of territories that fly their country's flag, say. A flag is otherwise a
 *   concept of its own, and so is a clock face, a letter or a coloured heart: these look alike, but have names that differ by what is seen.
 * Within a subcategory, concepts are ordered by a hash of seed and name and the first fifth is held out (at least one of three,
 * none where there are fewer), so the split needs no generator and a new emoji moves no other one.
 *
 * Captions never name the skin tone, as captions on the web do not: variations are near-duplicates with the same text.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readOptions, readSeeds } from './options.mjs';

export const vendors = ['google', 'twitter'];

/** Zero-shot prompts; `{}` is the class. They are among the forms that captions have. */
export const templates = ['an emoji of {}', 'a picture of {}', '{}'];

const SKIN_TONE = /^1F3F[B-F]$/;
/** Joiner, presentation selector, female, male, arrow to the right: what makes a variation of a concept. */
const DROPPED = new Set(['200D', 'FE0F', '2640', '2642', '27A1']);
const ADULT = '1F9D1';
const CHILD = '1F9D2';
/** Code points that differ in gender or number of persons only. */
const SAME_PERSON = new Map([
  ['1F468', ADULT],
  ['1F469', ADULT],
  ['1F466', CHILD],
  ['1F467', CHILD],
]);
/** Whole emoji that differ in gender only but do not share a code. */
const SAME_CONCEPT = new Map([
  ['1F474', '1F9D3'], // older man
  ['1F475', '1F9D3'], // older woman
  ['1F934', '1FAC5'], // prince, person with crown
  ['1F478', '1FAC5'], // princess
  ['1F936', '1F385'], // Mother and Father Christmas
  [`${ADULT}-1F384`, '1F385'], // Mx Claus
  ['1F930', '1FAC4'], // pregnant woman, person
  ['1FAC3', '1FAC4'], // pregnant man
  ['1F931', `${ADULT}-1F37C`], // breast-feeding, person feeding baby
  ['1F57A', '1F483'], // man dancing, dancer
  ['1F46B', `${ADULT}-1F91D-${ADULT}`], // holding hands
  ['1F46C', `${ADULT}-1F91D-${ADULT}`],
  ['1F46D', `${ADULT}-1F91D-${ADULT}`],
  ['1F48F', `${ADULT}-2764-1F48B-${ADULT}`], // kiss
  ['1F491', `${ADULT}-2764-${ADULT}`], // couple with heart
]);
const FAMILY = '1F46A';

/** Code of the concept that an emoji belongs to, from its code points. */
export function conceptCode(unified) {
  const points = unified.split('-').filter((point) => !DROPPED.has(point) && !SKIN_TONE.test(point));
  // A skin tone swatch, and the signs of gender themselves, are nothing but what is dropped elsewhere.
  if (points.length === 0) return unified;
  const persons = points.map((point) => SAME_PERSON.get(point) ?? point);
  if (persons.length > 1 && persons.every((point) => point === ADULT || point === CHILD)) return FAMILY;
  const code = persons.join('-');
  return SAME_CONCEPT.get(code) ?? code;
}

const SUBCATEGORY_WORDS = new Map([
  ['alphanum', 'letters and numbers'],
  ['av-symbol', 'audio and video symbol'],
  ['face-neutral-skeptical', 'face neutral or skeptical'],
]);

/** A name of the data in plain words: "FAMILY: MAN, BOY" → "family, man, boy", "animal-mammal" → "animal mammal". */
export function words(name) {
  return (
    SUBCATEGORY_WORDS.get(name) ??
    name
      .toLowerCase()
      .replace(/[:]/g, ',')
      .replace(/&/g, 'and')
      .replace(/[_-]+/g, ' ')
      .replace(/\s+/g, ' ')
      .trim()
  );
}

/** What a caption may say of an emoji: its names, its place in the data's own taxonomy, and both. */
export function captionsOf(emoji) {
  const category = words(emoji.category);
  const subcategory = words(emoji.subcategory);
  const names = new Set([words(emoji.name)]);
  // The short names of flags are country codes, and of swatches numbers: no words.
  if (emoji.category !== 'Flags') for (const name of emoji.short_names.slice(0, 3)) names.add(words(name));
  const [name] = names;
  const captions = [...names].filter((text) => /[a-z0-9]/.test(text)).map((text) => `an emoji of ${text}`);
  captions.push(
    `a picture of ${name}, ${subcategory}`,
    `${name}, ${subcategory}, ${category}`,
    `an emoji of ${subcategory}`,
    `a picture of ${subcategory}, ${category}`,
    `an emoji of ${category}`,
  );
  return [...new Set(captions)];
}

function packageFolder(vendor) {
  const require = createRequire(import.meta.url);
  return dirname(require.resolve(`emoji-datasource-${vendor}/package.json`));
}

/** Union-find by key. */
class Sets {
  parent = new Map();
  find(key) {
    let root = key;
    while (this.parent.has(root)) root = this.parent.get(root);
    return root;
  }
  join(a, b) {
    const [first, second] = [this.find(a), this.find(b)].sort();
    if (first !== second) this.parent.set(second, first);
  }
}

/** Every image that is there, with its emoji and concept code; and the ones that are not. */
function collect() {
  const items = [];
  const skipped = [];
  const sets = new Sets();
  for (const vendor of vendors) {
    const folder = packageFolder(vendor);
    const images = join(folder, 'img', vendor, '64');
    const seen = new Map();
    for (const emoji of JSON.parse(readFileSync(join(folder, 'emoji.json'), 'utf8'))) {
      const concept = conceptCode(emoji.unified);
      const drawings = [
        { image: emoji.image, variation: [] },
        ...Object.entries(emoji.skin_variations ?? {}).map(([tones, { image }]) => ({
          image,
          variation: tones.split('-').filter((point) => SKIN_TONE.test(point)),
        })),
      ];
      for (const { image, variation } of drawings) {
        const key = `${vendor}/${image.replace(/\.png$/, '')}`;
        const path = join(images, image);
        if (!existsSync(path)) {
          skipped.push({ key, reason: 'no image' });
          continue;
        }
        const hash = createHash('sha256').update(readFileSync(path)).digest('hex');
        if (seen.has(hash)) sets.join(concept, seen.get(hash));
        else seen.set(hash, concept);
        items.push({ key, path, emoji, variation, vendor, concept });
      }
    }
  }
  for (const item of items) item.concept = sets.find(item.concept);
  return { items, skipped };
}

/** Readable name of each concept: the short name of its emoji that names no gender, then has the shortest code, then the smallest. */
function nameConcepts(items) {
  const best = new Map();
  const gendered = /1F46[6-9]|264[02]/;
  const rank = ({ unified }) =>
    `${gendered.test(unified) ? 1 : 0} ${String(unified.length).padStart(3, '0')} ${unified}`;
  for (const { concept, emoji } of items) {
    const known = best.get(concept);
    if (known === undefined || rank(emoji) < rank(known)) best.set(concept, emoji);
  }
  for (const item of items) {
    const representative = best.get(item.concept);
    item.concept = representative.short_name;
    // A concept can lie in two subcategories (families do); it is split as a whole, in that of its representative.
    item.stratum = representative.subcategory;
  }
}

function heldOutConcepts(items, seed, share) {
  const strata = new Map();
  for (const { concept, stratum } of items) {
    if (!strata.has(stratum)) strata.set(stratum, new Set());
    strata.get(stratum).add(concept);
  }
  const heldOut = new Set();
  const order = (concept) => createHash('sha256').update(`${seed}:${concept}`).digest('hex');
  for (const concepts of strata.values()) {
    if (concepts.size < 3) continue;
    const count = Math.max(1, Math.round(concepts.size * share));
    const sorted = [...concepts].map((concept) => [order(concept), concept]).sort();
    for (const [, concept] of sorted.slice(0, count)) heldOut.add(concept);
  }
  return heldOut;
}

function writeWhole(path, text) {
  writeFileSync(`${path}.tmp`, text);
  renameSync(`${path}.tmp`, path);
}

const jsonl = (values) => values.map((value) => `${JSON.stringify(value)}\n`).join('');

/**
 * Writes the data set into `out`; the same files for the same seed and package versions.
 * @param {{ out: string, seed?: number, share?: number }} options `seed` of the split, 0 by default; `share` of the concepts that is held out, 0.2 by default
 */
export function prepare({ out, seed = 0, share = 0.2 }) {
  const folder = resolve(out);
  mkdirSync(folder, { recursive: true });
  const { items, skipped } = collect();
  nameConcepts(items);
  const heldOut = heldOutConcepts(items, seed, share);

  const splits = { train: [], heldout: [] };
  const variations = new Map();
  for (const { key, path, emoji, variation, vendor, concept } of items) {
    const split = heldOut.has(concept) ? 'heldout' : 'train';
    splits[split].push({
      key,
      image: relative(folder, path).split(sep).join('/'),
      captions: captionsOf(emoji),
      concept,
      emoji: emoji.short_name,
      category: words(emoji.category),
      subcategory: words(emoji.subcategory),
      vendor,
      variation: variation.join('-'),
    });
    const set = `${vendor}/${emoji.short_name}`;
    if (!variations.has(set)) variations.set(set, { split, vendor, emoji: emoji.short_name, keys: [] });
    variations.get(set).keys.push(key);
  }

  const concepts = new Set(items.map((item) => item.concept));
  const distinct = (name) =>
    [...new Set([...splits.train, ...splits.heldout].map((item) => item[name]))].sort();
  const classes = { category: distinct('category'), subcategory: distinct('subcategory'), templates };
  const report = {
    seed,
    share,
    images: { train: splits.train.length, heldout: splits.heldout.length },
    concepts: { train: concepts.size - heldOut.size, heldout: heldOut.size },
    categories: classes.category.length,
    subcategories: classes.subcategory.length,
    skipped,
  };
  writeWhole(join(folder, 'train.jsonl'), jsonl(splits.train));
  writeWhole(join(folder, 'heldout.jsonl'), jsonl(splits.heldout));
  writeWhole(
    join(folder, 'variations.jsonl'),
    jsonl([...variations.values()].filter(({ keys }) => keys.length > 1)),
  );
  writeWhole(join(folder, 'classes.json'), `${JSON.stringify(classes, null, 2)}\n`);
  writeWhole(join(folder, 'prepare.json'), `${JSON.stringify(report, null, 2)}\n`);
  return report;
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const usage = 'node examples/emoji/prepare.mjs --out DIR [--seed N]';
  const values = readOptions(usage, { out: { type: 'string' }, seed: { type: 'string', default: '0' } });
  if (values.out === undefined) {
    console.error(`Expected a folder for --out but received nothing\n\nUsage: ${usage}`);
    process.exit(2);
  }
  const [seed] = readSeeds('--seed', values.seed);
  const report = prepare({ out: values.out, seed });
  console.log(
    `${report.images.train} images of ${report.concepts.train} concepts to train on, ` +
      `${report.images.heldout} of ${report.concepts.heldout} held out; ${report.skipped.length} without an image.`,
  );
}
