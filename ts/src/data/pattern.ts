import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * `a{00..03}b` and `a{x,y}b` as the names they stand for, in order. A range keeps the zeros of its first number. Text without
 * such braces comes back as it is.
 */
export function expandBraces(text: string): string[] {
  const match = /\{([^{}]*)\}/.exec(text);
  if (!match) return [text];
  const [whole, inner] = match;
  const range = /^(\d+)\.\.(\d+)$/.exec(inner);
  const parts = range ? numbers(range[1], range[2]) : inner.split(',');
  const before = text.slice(0, match.index);
  const after = text.slice(match.index + whole.length);
  return parts.flatMap((part) => expandBraces(before + part + after));
}

function numbers(from: string, to: string): string[] {
  const first = Number(from);
  const count = Math.max(0, Number(to) - first + 1);
  return Array.from({ length: count }, (_, i) => String(first + i).padStart(from.length, '0'));
}

/**
 * Files that a pattern with braces, `*` and `?` stands for, sorted within a wildcard. Names that braces give are there even
 * when no such file exists, unless none does: a missing one is for the caller to report.
 */
export async function expandPattern(pattern: string): Promise<string[]> {
  if (!/[{*?]/.test(pattern)) return [];
  const found: string[] = [];
  for (const path of expandBraces(pattern)) found.push(...(await expandWildcards(path)));
  const exists = await Promise.all(
    found.map((path) =>
      stat(path).then(
        (s) => s.isFile(),
        () => false,
      ),
    ),
  );
  return exists.includes(true) ? found : [];
}

async function expandWildcards(path: string): Promise<string[]> {
  const segments = path.split('/');
  let paths = [segments[0] === '' ? '/' : ''];
  for (const segment of segments.filter((part) => part !== '')) {
    const next: string[] = [];
    for (const parent of paths) {
      if (!/[*?]/.test(segment)) {
        next.push(join(parent, segment));
        continue;
      }
      const test = wildcard(segment);
      const names = await readdir(parent === '' ? '.' : parent).catch(() => []);
      next.push(
        ...names
          .filter((name) => test.test(name))
          .sort()
          .map((name) => join(parent, name)),
      );
    }
    paths = next;
  }
  return paths;
}

function wildcard(segment: string): RegExp {
  const escaped = segment.replace(/[.+^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`, 's');
}
