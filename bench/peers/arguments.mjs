// What both runners' command lines have in common: their reading, and which works they ask for.
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

/** Misuse of the command line. */
export class Misuse extends Error {}

const text = (value) => ({ type: 'string', ...(value === undefined ? {} : { default: value }) });
const flag = { type: 'boolean', default: false };

/** Whole numbers, and their ranges. */
const NUMBERS = {
  rounds: [1, 1000],
  threads: [1, 1024],
  seed: [0, Number.MAX_SAFE_INTEGER],
  scale: [1, 1_000_000],
};

/**
 * Reads the command line, calls `main` with what it says, and sets the exit code; shows the usage where that is asked for.
 *
 * @param runner.ops Operations that a run may name.
 * @param runner.defaults Options that take a value, with their defaults, beside those of every runner.
 * @param runner.main Gives the exit code; throws {@link Misuse}.
 */
export async function start({ usage, ops, defaults, main }) {
  try {
    const settings = readArguments(ops, defaults);
    if (settings === undefined) process.stdout.write(usage);
    else process.exitCode = await main(settings);
  } catch (error) {
    if (!(error instanceof Misuse) && !error.code?.startsWith('ERR_PARSE_ARGS')) throw error;
    process.stderr.write(`error: ${error.message}\n(--help shows the usage)\n`);
    process.exitCode = 2;
  }
}

function readArguments(ops, defaults) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: flag,
      markdown: flag,
      help: flag,
      work: text(),
      spectrum: text(),
      rounds: text(),
      seed: text('0'),
      cache: text(join(tmpdir(), 'clip-cid-bench')),
      ...Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, text(value)])),
    },
  });
  if (values.help) return undefined;
  const [op] = positionals;
  if (positionals.length !== 1 || ![...ops, 'all'].includes(op)) {
    throw new Misuse(
      `Expected one of ${ops.join(', ')}, all but received ${positionals.join(' ') || 'nothing'}`,
    );
  }
  if (values.json && values.markdown) throw new Misuse('Expected --json or --markdown but received both');
  const numbers = Object.entries(NUMBERS).flatMap(([name, [least, most]]) => {
    if (values[name] === undefined) return [];
    const value = Number(values[name]);
    if (/^\d+$/.test(values[name]) && value >= least && value <= most) return [[name, value]];
    throw new Misuse(
      `Expected a whole number from ${least} to ${most} for --${name} but received ${values[name]}`,
    );
  });
  return { ...values, ...Object.fromEntries(numbers), op };
}

/** The works of an operation, or the one named, each with the kinds of data asked for. Throws {@link Misuse} where there are none. */
export function chooseWorks(all, { op, work: only, spectrum }) {
  const works = all.filter((work) => (op === 'all' || work.op === op) && (only ?? work.name) === work.name);
  if (works.length === 0) throw new Misuse(`Expected a work of ${op} for --work but received ${only}`);
  const pairs = works.flatMap((work) =>
    work.spectra.filter((name) => (spectrum ?? name) === name).map((name) => ({ work, spectrum: name })),
  );
  if (pairs.length === 0) {
    throw new Misuse(`Expected data of this work for --spectrum but received ${spectrum}`);
  }
  return { works, pairs };
}
