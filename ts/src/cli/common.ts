import { dirname, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Config, parseConfig } from '../cid/config.ts';
import { setInstructions, setThreads } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { INSTRUCTIONS, type Instructions } from '../native/instructions.ts';
import { catchInterrupt, INTERRUPTED } from '../run/interrupt.ts';
import { type OnProgress, showProgress } from '../run/progress.ts';
import { readConfigFile } from '../run/schema.ts';
import type { Existing } from '../run/stage.ts';
import { type Remembered, recalled, tellRemembered } from './remembered.ts';

/** Exit codes of every command. */
export const DONE = 0;
export const FAILED = 1;
export const MISUSE = 2;

/** Flags that commands have in common; each command adds the groups it takes. */
export interface CommonFlags {
  config?: string;
  run?: string;
  out?: string;
  device?: string;
  threads?: number;
  simd?: Instructions;
  maxMemory?: number;
  maxDeviceMemory?: number;
  seed?: number;
  json?: boolean;
  quiet?: boolean;
  force?: boolean;
  forget?: boolean;
}

/** What an action gets beside its flags. */
export interface Session {
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
  /** A line on standard error, above the progress; not with --quiet. */
  readonly log: (line: string) => void;
  readonly existing: Existing;
  /** A result: `text` on standard output, or with --json the record as one line of JSON. */
  print(record: Record<string, unknown>, text: string): void;
}

/** Adds --json and --quiet. */
export function outputFlags(command: Command): Command {
  return command
    .option('--json', 'print results as JSON, one object a line')
    .option('--quiet', 'no progress and no notes');
}

/** Adds the flags of a stage: where it runs, from which configuration, and what it may replace. */
export function stageFlags(command: Command): Command {
  return outputFlags(
    command
      .option('--config <file>', 'configuration file; flags win over it')
      .option('--device <device>', "'auto', 'cpu', 'cuda' or 'cuda:N' (default: auto)")
      .addOption(number('--threads <n>', 'threads for kernels, inference and decoding (default: all cores)'))
      .addOption(simdFlag())
      .addOption(number('--seed <n>', 'seed of everything random (default: 0)'))
      .option('--force', 'replace results that are there'),
  );
}

/** Adds --run and --out. */
export function placeFlags(command: Command, out: string): Command {
  return command
    .option(
      '--run <dir>',
      "run folder: inputs come from its earlier stages, results go to the stage's own folder; options left out are as in the command's last run there",
    )
    .option('--out <dir>', out)
    .option('--forget', 'with --run: options left out are the defaults again');
}

/** --simd, which {@link configOf} obeys. */
export function simdFlag(): Option {
  return new Option(
    '--simd <set>',
    "CPU instruction set, or the best below it (default: the machine's best)",
  ).choices(INSTRUCTIONS);
}

/** An option whose value is a number. */
export function number(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text: string) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.');
    return value;
  });
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** An option whose value is a number of bytes: '1GiB', '500 MB', '1073741824'. */
export function bytes(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text: string) => {
    const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
    const factor = UNITS[unit?.toLowerCase() ?? '?'];
    if (factor === undefined) throw new InvalidArgumentError("Expected bytes, such as '1GiB' or '500MB'.");
    return Math.floor(Number(digits) * factor);
  });
}

/** Adds --max-memory and --max-device-memory, for stages that compare embeddings. */
export function memoryFlag(command: Command): Command {
  return command
    .addOption(
      bytes('--max-memory <size>', "most that comparing may hold, such as '1GiB' (default: what is free)"),
    )
    .addOption(deviceMemoryOption("most of a GPU's memory that comparing may hold (default: what is free)"));
}

export function deviceMemoryOption(description: string): Option {
  return bytes('--max-device-memory <size>', description);
}

/** An option whose value is a list: commas between the entries. */
export function list(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text: string) =>
    text
      .split(',')
      .map((part) => part.trim())
      .filter((part) => part !== ''),
  );
}

/** {@link configWith} for the configuration of the CLIP-CID pipeline. */
export function configOf(
  flags: CommonFlags,
  overrides: Record<string, unknown>,
  remembered?: Remembered,
): Promise<Config> {
  return configWith(parseConfig, flags, overrides, remembered);
}

/**
 * The configuration of a command: what is remembered, the file's over it, and over that what the flags say; checked as a whole.
 * Paths in the file are relative to it, those of flags to the working folder.
 */
export async function configWith<C extends { readonly threads?: number | undefined }>(
  parse: (value: unknown, name: string, folder?: string) => C,
  flags: CommonFlags,
  overrides: Record<string, unknown>,
  remembered?: Remembered,
): Promise<C> {
  let base = merge(remembered === undefined ? {} : recalled(remembered), {});
  let fromFile: object = {};
  if (flags.config !== undefined) {
    const file = await readConfigFile(flags.config);
    // Checked by itself, so that a mistake in the file is reported with the file's name.
    const checked = parse(file, flags.config, dirname(resolve(flags.config)));
    fromFile = pick(checked, file);
    base = merge(base, fromFile);
  }
  const { device, threads, maxMemory, maxDeviceMemory, seed } = flags;
  const common = { device, threads, maxMemory, maxDeviceMemory, seed };
  const said = { ...common, ...overrides };
  const config = parse(merge(base, said), 'the options');
  if (remembered !== undefined) tellRemembered(remembered, [fromFile, said], parse({}, 'the defaults'));
  if (config.threads !== undefined) setThreads(config.threads);
  if (flags.simd !== undefined) setInstructions(flags.simd);
  return config;
}

/** Fields of `checked` that `given` has: its defaults must not hide what is remembered. */
function pick(checked: object, given: unknown): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(checked).flatMap(([key, value]): [string, unknown][] => {
      const field = (given as Record<string, unknown>)[key];
      if (field === undefined) return [];
      const nested = isPlain(field) && isPlain(value);
      return [[key, nested ? pick(value, field) : value]];
    }),
  );
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Lays `over` on `base`, section by section. A field of `over` that is undefined leaves what is there; null takes it away. */
function merge(base: object, over: object): Record<string, unknown> {
  const result: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const below = result[key];
    if (value === null) delete result[key];
    else result[key] = isPlain(value) ? merge(isPlain(below) ? below : {}, value) : value;
  }
  return result;
}

/** Misuse of the command line that commander cannot see. */
export class UsageError extends Error {}

/**
 * Runs the body of a command: progress on standard error, Ctrl-C, and its failure as one clear line and an exit code.
 */
export async function runCommand(
  flags: CommonFlags,
  body: (session: Session) => Promise<void>,
): Promise<void> {
  process.env.ORT_DISABLE_TELEMETRY = '1';
  const display = showProgress({ quiet: flags.quiet === true });
  const interrupt = catchInterrupt(() => {
    display.end();
    process.stderr.write('Stopping at the next safe point; press Ctrl-C again to stop at once.\n');
  });
  try {
    await body({
      signal: interrupt.signal,
      existing: flags.force ? 'replace' : 'resume',
      onProgress: display.update,
      log: (line) => {
        if (!flags.quiet) display.log(line);
      },
      print(record, text) {
        display.end();
        process.stdout.write(`${flags.json ? JSON.stringify(record) : text}\n`);
      },
    });
    display.end();
    process.exitCode = DONE;
  } catch (error) {
    display.end();
    process.exitCode = report(error, interrupt.interrupted, flags.force);
  } finally {
    interrupt.dispose();
  }
}

/** Writes what went wrong to standard error; the exit code. */
export function report(error: unknown, interrupted = false, forced = false): number {
  const debug = process.env.CLIP_CID_DEBUG === '1';
  if (interrupted && error instanceof CidError && error.code === 'ABORTED') {
    // With --force it would begin anew; without, it is refused where nothing was written yet and the earlier result is back.
    process.stderr.write(
      `Interrupted. The same command ${forced ? 'without --force ' : ''}goes on from here${forced ? ', once a first part is written' : ''}.\n`,
    );
    return INTERRUPTED;
  }
  const known = error instanceof CidError || error instanceof UsageError || isMisuse(error);
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(
    `error: ${known ? message : `${message} (unexpected; CLIP_CID_DEBUG=1 shows where)`}\n`,
  );
  if (debug && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
      process.stderr.write(`caused by ${cause.stack}\n`);
    }
  }
  if (error instanceof UsageError || isMisuse(error)) return MISUSE;
  return error instanceof CidError && error.code === 'INVALID_CONFIG' ? MISUSE : FAILED;
}

/** An argument that the API refused; its messages all begin alike. */
function isMisuse(error: unknown): boolean {
  return (error instanceof TypeError || error instanceof RangeError) && error.message.startsWith('Expected ');
}
