import { z } from 'zod';
import { closest, describeValue } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { readJson } from './files.ts';

/**
 * Checks a configuration against a schema and fills in its defaults.
 *
 * @param name Where it comes from, for messages: a file, or 'the options'.
 * @throws CidError INVALID_CONFIG that names every field that is wrong, unknown ones with the name that may have been meant.
 */
export function parseWith<T extends z.ZodType>(schema: T, value: unknown, name: string): z.output<T> {
  const result = schema.safeParse(value, { reportInput: true });
  if (!result.success) {
    const lines = result.error.issues.flatMap((issue) => describeIssue(schema, issue, value));
    throw new CidError('INVALID_CONFIG', `${name}: ${[...new Set(lines)].join('; ')}`);
  }
  return result.data;
}

/** The JSON of a configuration file, unchecked. Damaged JSON is INVALID_CONFIG. */
export async function readConfigFile(file: string): Promise<unknown> {
  try {
    return await readJson(file);
  } catch (error) {
    if (error instanceof CidError && error.code === 'FILE_FORMAT') {
      throw new CidError('INVALID_CONFIG', error.message, { cause: error });
    }
    throw error;
  }
}

/** `value`, or INVALID_CONFIG that names the field that is needed. */
export function required<T>(value: T | undefined, field: string, what: string): T {
  if (value === undefined)
    throw new CidError('INVALID_CONFIG', `Expected ${what} for ${field} but received nothing`);
  return value;
}

type Issue = z.core.$ZodIssue;

function describeIssue(
  schema: z.core.$ZodType,
  issue: Issue,
  root: unknown,
  base: readonly PropertyKey[] = [],
): string[] {
  const where = [...base, ...issue.path];
  const field = where.length === 0 ? 'the configuration' : where.join('.').replace(/\.(\d+)/g, '[$1]');
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const name = [...where, key].join('.');
      const meant = closest(key, knownFields(schema, where));
      return `unknown field ${name}${meant ? ` (did you mean ${meant}?)` : ''}`;
    });
  }
  if (issue.code === 'invalid_union') {
    // The branch that got furthest is the one that was meant.
    const branches = issue.errors.filter((errors) =>
      errors.some((error) => error.path.length > 0 || error.code !== 'invalid_type'),
    );
    const given = valueAt(root, where);
    const meant =
      branches.find((errors) => errors.every((error) => error.code !== 'invalid_value')) ?? branches[0];
    if (meant && (typeof given === 'object' || branches.length === 1)) {
      return meant.flatMap((error) => describeIssue(schema, error, root, where));
    }
    const expected = issue.errors.map((errors) => expectation(errors[0]!)).join(' or ');
    return [`Expected ${expected} for ${field} but received ${describeValue(given)}`];
  }
  if (issue.code === 'invalid_format' || issue.code === 'custom') {
    return [`${issue.message} for ${field} but received ${describeValue(valueAt(root, where))}`];
  }
  return [`Expected ${expectation(issue)} for ${field} but received ${describeValue(valueAt(root, where))}`];
}

const KINDS: Record<string, string> = {
  string: 'a text',
  number: 'a number',
  int: 'an integer',
  boolean: 'true or false',
  object: 'an object',
  array: 'a list',
  tuple: 'a list of two numbers',
  record: 'an object',
};

function expectation(issue: Issue): string {
  switch (issue.code) {
    case 'invalid_type':
      return KINDS[issue.expected] ?? issue.expected;
    case 'invalid_value':
      return issue.values.length === 1
        ? JSON.stringify(issue.values[0])
        : `one of ${issue.values.map((value) => JSON.stringify(value)).join(', ')}`;
    case 'too_small':
      if (issue.origin === 'string') return 'a text that is not empty';
      if (issue.origin === 'array') return `at least ${issue.minimum} entries`;
      return `a number ${issue.inclusive === false ? 'over' : 'of at least'} ${issue.minimum}`;
    case 'too_big':
      if (issue.origin === 'array') return `at most ${issue.maximum} entries`;
      return `a number ${issue.inclusive === false ? 'under' : 'of at most'} ${issue.maximum}`;
    default:
      return issue.message;
  }
}

function valueAt(root: unknown, where: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of where) value = (value as Record<PropertyKey, unknown> | undefined | null)?.[key];
  return value;
}

/** Names of the fields of a section of the schema; empty when there is no such section. */
function knownFields(schema: z.core.$ZodType, where: readonly PropertyKey[]): string[] {
  let types: z.core.$ZodType[] = [schema];
  for (const key of where)
    types = types.flatMap((type) => shapeOf(type).flatMap((shape) => shape[String(key)] ?? []));
  return types.flatMap((type) => shapeOf(type).flatMap(Object.keys));
}

function shapeOf(type: z.core.$ZodType): Record<string, z.core.$ZodType>[] {
  if (type instanceof z.ZodObject) return [type.shape];
  if (type instanceof z.ZodUnion) return type.options.flatMap(shapeOf);
  if (type instanceof z.ZodOptional || type instanceof z.ZodPrefault || type instanceof z.ZodDefault) {
    return shapeOf(type.def.innerType);
  }
  return [];
}
