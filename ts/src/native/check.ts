/**
 * Validation of arguments, with the one message shape of the package: `Expected <what> for <name> but received <value>`.
 * A value of the wrong type is a `TypeError`, one of the right type out of its range a `RangeError`.
 */

const LONGEST = 60;
/** Names of options that a message lists. */
const MANY = 16;

/** A value as an error message shows it: short, on one line, and never a failure of its own. */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  switch (typeof value) {
    case 'string':
      return shorten(JSON.stringify(value));
    case 'number':
      return Object.is(value, -0) ? '-0' : String(value);
    case 'bigint':
      return `${value}n`;
    case 'boolean':
      return String(value);
    case 'symbol':
      return 'a symbol';
    case 'function':
      return 'a function';
    default:
      return describeObject(value);
  }
}

function describeObject(value: object): string {
  if (ArrayBuffer.isView(value)) {
    const { length } = value as { length?: number };
    return `a ${value.constructor.name} of ${length ?? value.byteLength}`;
  }
  if (Array.isArray(value)) {
    // Only a short head is looked at: an array given by mistake may hold millions of elements.
    const head = value
      .slice(0, 4)
      .map((item) => (typeof item === 'object' && item !== null ? '…' : describeValue(item)));
    return shorten(`[${head.join(', ')}${value.length > head.length ? `, … ${value.length} elements` : ''}]`);
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && prototype !== Object.prototype) {
    return `an instance of ${(value.constructor as { name?: string } | undefined)?.name || 'a class'}`;
  }
  const keys = Object.keys(value);
  if (keys.length === 0) return 'an empty object';
  return shorten(`an object with ${keys.slice(0, 6).join(', ')}${keys.length > 6 ? ', …' : ''}`);
}

function shorten(text: string): string {
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST - 1)}…`;
}

/** Throws a `TypeError`: the value is of the wrong kind. */
export function failType(what: string, name: string, value: unknown): never {
  throw new TypeError(message(what, name, value));
}

/** Throws a `RangeError`: the value is of the right kind, but out of its range. */
export function failRange(what: string, name: string, value: unknown): never {
  throw new RangeError(message(what, name, value));
}

function message(what: string, name: string, value: unknown): string {
  return `Expected ${what} for ${name} but received ${describeValue(value)}`;
}

function range(kind: string, min: number, max: number): string {
  if (min === Number.NEGATIVE_INFINITY && max === Number.POSITIVE_INFINITY) return kind;
  if (max === Number.POSITIVE_INFINITY) return `${kind} of at least ${min}`;
  if (min === Number.NEGATIVE_INFINITY) return `${kind} of at most ${max}`;
  return `${kind} from ${min} to ${max}`;
}

/** An integer from `min` to `max`, both included. */
export function expectInteger(name: string, value: unknown, min = 0, max = Number.MAX_SAFE_INTEGER): number {
  const what = range('an integer', min, max === Number.MAX_SAFE_INTEGER ? Number.POSITIVE_INFINITY : max);
  if (typeof value !== 'number') failType(what, name, value);
  if (!Number.isSafeInteger(value) || value < min || value > max) failRange(what, name, value);
  return value;
}

/** A finite number from `min` to `max`, both included. */
export function expectNumber(
  name: string,
  value: unknown,
  min = Number.NEGATIVE_INFINITY,
  max = Number.POSITIVE_INFINITY,
): number {
  const what = range('a number', min, max);
  if (typeof value !== 'number') failType(what, name, value);
  if (!Number.isFinite(value) || value < min || value > max) failRange(what, name, value);
  return value;
}

/** A finite number over 0. */
export function expectPositive(name: string, value: unknown): number {
  const what = 'a number over 0';
  if (typeof value !== 'number') failType(what, name, value);
  if (!(value > 0) || value === Number.POSITIVE_INFINITY) failRange(what, name, value);
  return value;
}

export function expectBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') failType('true or false', name, value);
  return value;
}

/** A string that is not empty. */
export function expectString(name: string, value: unknown): string {
  if (typeof value !== 'string' || value === '') failType('a non-empty string', name, value);
  return value;
}

/** One of a few strings. */
export function expectOneOf<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  const what = `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`;
  if (typeof value !== 'string') failType(what, name, value);
  if (!choices.includes(value as T)) failRange(what, name, value);
  return value as T;
}

/** A plain object; with `keys`, one that has no others, so that a misspelt option is an error and not a default. */
export function expectObject(
  name: string,
  value: unknown,
  keys?: readonly string[],
): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
    failType('an object', name, value);
  }
  if (keys !== undefined) {
    for (const key of Object.keys(value)) {
      if (!keys.includes(key)) {
        const meant = closest(key, keys);
        // A few names are said; of many, the one that may have been meant says more.
        const wanted = keys.length > MANY && meant !== undefined ? 'names that are known' : keys.join(', ');
        throw new TypeError(
          `Expected ${wanted} for ${name} but received ${JSON.stringify(key)}` +
            (meant === undefined ? '' : ` (did you mean ${meant}?)`),
        );
      }
    }
  }
  return value as Record<string, unknown>;
}

export function expectFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') failType('a function', name, value);
}

/** A Float32Array, of exactly `length` elements when that is given. `shape`, such as '[B, D]', goes into the message. */
export function expectFloat32(name: string, value: unknown, length?: number, shape?: string): Float32Array {
  return expectArray(name, value, Float32Array, 'a Float32Array', length, shape);
}

/** An Int32Array, of exactly `length` elements when that is given. */
export function expectInt32(name: string, value: unknown, length?: number, shape?: string): Int32Array {
  return expectArray(name, value, Int32Array, 'an Int32Array', length, shape);
}

/** A Float64Array, of exactly `length` elements when that is given. */
export function expectFloat64(name: string, value: unknown, length?: number, shape?: string): Float64Array {
  return expectArray(name, value, Float64Array, 'a Float64Array', length, shape);
}

function expectArray<T extends { readonly length: number }>(
  name: string,
  value: unknown,
  type: abstract new (...args: never[]) => T,
  kind: string,
  length: number | undefined,
  shape: string | undefined,
): T {
  const what = length === undefined ? kind : `${kind} of ${length}${shape === undefined ? '' : ` ${shape}`}`;
  if (!(value instanceof type)) failType(what, name, value);
  if (length !== undefined && value.length !== length) failRange(what, name, value);
  return value;
}

/** The name that differs in the fewest letters, when that is few enough to be a slip. */
export function closest(name: string, candidates: readonly string[]): string | undefined {
  const scored = candidates.map((candidate) => ({
    candidate,
    distance: editDistance(name.toLowerCase(), candidate.toLowerCase()),
  }));
  scored.sort((a, b) => a.distance - b.distance);
  const best = scored[0];
  return best && best.distance <= Math.ceil(name.length / 3) ? best.candidate : undefined;
}

/** Levenshtein. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
