import type { Dataset, Item } from '../data/dataset.ts';
import { expectInteger, expectOneOf, failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { type EvaluateOptions, type EvaluationTask, evaluationTasks } from './types.ts';

/** Fields that hold a class where the options name none. */
const USUAL_LABELS = ['label', 'category'];

type Options = Pick<
  EvaluateOptions,
  'tasks' | 'labels' | 'classes' | 'concept' | 'domain' | 'probeLabels' | 'captionsPerImage'
>;

/** What is measured, and by which fields. */
export interface Plan {
  /** Fields that hold a class. */
  readonly fields: readonly string[];
  readonly wanted: (task: EvaluationTask) => boolean;
}

/** The value of a field as a class; undefined where there is none. */
export function classOf(item: Item, field: string): string | undefined {
  const value = item.metadata[field];
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** The field that says which images show the same thing. */
export const conceptField = ({ concept = 'concept' }: Pick<EvaluateOptions, 'concept'>) => concept;

/** The field in which a query and a match must differ. */
export const domainField = ({ domain = 'vendor' }: Pick<EvaluateOptions, 'domain'>) => domain;

export const itemsOf = (data: Dataset): Item[] => Array.from({ length: data.length }, (_, i) => data.item(i));

/**
 * Holds options against the lists of images that they are for, before a model is opened: a misspelt field or a class that no training image has
 * must not show after hours of embedding.
 *
 * @throws TypeError, RangeError; CidError INVALID_DATA.
 */
export function expectMeasurable(data: Dataset, train: Dataset | undefined, options: Options): void {
  for (const task of options.tasks ?? []) expectOneOf('tasks', task, evaluationTasks);
  if (options.captionsPerImage !== undefined) expectInteger('captionsPerImage', options.captionsPerImage, 1);
  if (options.tasks?.includes('linear-probe') && train === undefined) {
    failType('a data set to train on', 'train', train);
  }
  const items = itemsOf(data);
  const { labels = [], probeLabels = [] } = options;
  for (const field of new Set([...labels, ...probeLabels])) {
    if (items.some((item) => classOf(item, field) !== undefined)) continue;
    const known = new Set(items.flatMap(({ metadata }) => Object.keys(metadata)));
    throw new CidError(
      'INVALID_DATA',
      `No item of ${data.source} has a class in the field '${field}'; its fields are ${[...known].sort().join(', ') || 'none'}`,
    );
  }
  const { fields, wanted } = planOf(items, data.source, train !== undefined, options);
  if (wanted('zero-shot')) {
    for (const field of fields) {
      const given = options.classes?.[field];
      if (given) expectClasses(items, field, new Set(given), 'which is not among the given classes');
    }
  }
  if (wanted('linear-probe')) {
    const seen = itemsOf(train!);
    for (const field of options.probeLabels ?? fields) {
      const names = new Set(seen.map((item) => classOf(item, field)));
      const why = `of which ${train!.source} has no image for the linear probe to learn from; leave linear-probe out of the tasks, or add some`;
      expectClasses(items, field, names, why);
    }
  }
}

function expectClasses(
  items: readonly Item[],
  field: string,
  names: ReadonlySet<string | undefined>,
  why: string,
): void {
  for (const item of items) {
    const name = classOf(item, field);
    if (name === undefined || names.has(name)) continue;
    throw new CidError('INVALID_DATA', `${item.key} has the class '${name}' in '${field}', ${why}`);
  }
}

/**
 * Tasks that are asked for, or else all that the images allow.
 *
 * @param source Of the items, for messages.
 * @throws CidError INVALID_DATA when a task that was asked for finds nothing to measure.
 */
export function planOf(items: readonly Item[], source: string, trained: boolean, options: Options): Plan {
  const fields = options.labels ?? usualLabels(items, options);
  const labelled = fields.some((field) => items.some((item) => classOf(item, field) !== undefined));
  const concept = conceptField(options);
  const can: Record<EvaluationTask, boolean> = {
    'zero-shot': labelled,
    'image-text': items.some((item) => item.captions.length > 0),
    'image-image': hasPairs(items, concept, domainField(options)),
    'linear-probe': labelled && trained,
  };
  const aClass = `a class in ${fields.join(', ') || USUAL_LABELS.join(' or ')}`;
  const missing: Record<EvaluationTask, string> = {
    'zero-shot': aClass,
    'image-text': 'a caption',
    'image-image': `another of the same '${concept}' and another '${domainField(options)}'`,
    'linear-probe': aClass,
  };
  for (const task of options.tasks ?? []) {
    if (!can[task])
      throw new CidError('INVALID_DATA', `No item of ${source} has ${missing[task]}, for ${task}`);
  }
  return { fields, wanted: (task) => options.tasks?.includes(task) ?? can[task] };
}

/** True where two images of different domains show one concept; an image without a domain is a domain of its own. */
function hasPairs(items: readonly Item[], concept: string, domain: string): boolean {
  const first = new Map<string, string | undefined>();
  return items.some((item) => {
    const name = classOf(item, concept);
    if (name === undefined) return false;
    const own = classOf(item, domain);
    if (first.has(name)) return own === undefined || own !== first.get(name);
    first.set(name, own);
    return false;
  });
}

function usualLabels(items: readonly Item[], { classes }: Options): readonly string[] {
  if (classes) return Object.keys(classes);
  return USUAL_LABELS.filter((field) => items.some((item) => classOf(item, field) !== undefined)).slice(0, 1);
}
