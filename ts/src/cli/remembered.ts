import type { Command } from 'commander';

/*
 * A run folder remembers the configuration of the stage that ended last, so that the same command without its flags does the same again. Nothing
 * of that may go unsaid: what is taken over is named, and can be left behind.
 */

/** What a command takes over from its run, beside data, models and what else the stages hand on. */
export interface Remembered {
  /** The configuration as the run has it. */
  readonly before: unknown;
  /** Options that are this command's: sections, or single fields of one, such as 'balance' or 'labels.count'. */
  readonly own: readonly string[];
  /** Starts from the defaults of these (--forget). */
  readonly forget?: boolean | undefined;
  /** Told which were taken over: as flags where there are some, with their values. */
  readonly tell: (options: readonly string[]) => void;
  /** Whose flags they are. */
  readonly command: Command;
}

type Leaf = readonly [path: string, value: unknown];

/** Everything in a configuration by its path, lists whole; null, which takes a field away, is a value. */
function leavesOf(value: unknown, path = ''): Leaf[] {
  if (value === undefined) return [];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [[path, value]];
  return Object.entries(value).flatMap(([key, field]) =>
    leavesOf(field, path === '' ? key : `${path}.${key}`),
  );
}

const isWithin = (path: string, section: string) => path === section || path.startsWith(`${section}.`);

/** What the run remembers, without what is to be forgotten. */
export function recalled({ before, own, forget }: Remembered): object {
  const all = structuredClone((before ?? {}) as Record<string, unknown>);
  if (forget !== true) return all;
  for (const path of own) {
    const keys = path.split('.');
    const last = keys.pop()!;
    let at: Record<string, unknown> | undefined = all;
    for (const key of keys) at = at?.[key] as Record<string, unknown> | undefined;
    if (at !== undefined) delete at[last];
  }
  return all;
}

/**
 * Names what is taken over: the command's own options that are not as by default, and that neither flags nor file say.
 *
 * @param given What flags and file say.
 */
export function tellRemembered(remembered: Remembered, given: readonly unknown[], defaults: unknown): void {
  const { own, command, tell } = remembered;
  const said = given.flatMap((part) => leavesOf(part)).map(([path]) => path);
  const usual = new Map(leavesOf(defaults).map(([path, value]) => [path, JSON.stringify(value)]));
  const kept = leavesOf(recalled(remembered)).filter(
    ([path, value]) =>
      own.some((section) => isWithin(path, section)) &&
      usual.get(path) !== JSON.stringify(value) &&
      !said.some((other) => isWithin(path, other) || isWithin(other, path)),
  );
  if (kept.length > 0) tell(kept.map(([path, value]) => asFlag(command, path, value)));
}

/** Flags by the fields that they set, where they are not called alike; null for a field that is called like a flag which it is not. */
const FLAGS: Readonly<Record<string, string | null>> = {
  'eval.templates': '--template',
  'encoder.providers': '--providers',
  'student.backbone': '--backbone',
  'student.init': '--init',
  'student.features': '--features',
  'teacher.backbone': '--teacher-backbone',
  'teacher.init': '--teacher-init',
  'labels.count': '--label-count',
  'labels.share': '--label-share',
  'labels.splitSeed': '--split-seed',
  'train.unlabelled': '--data',
  'align.clip': null,
  'train.clip': null,
};

function asFlag(command: Command, path: string, value: unknown): string {
  const keys = path.split('.');
  const flag =
    path in FLAGS
      ? FLAGS[path]
      : keys.length <= 2
        ? command.options.find((option) => option.attributeName() === keys.at(-1))?.long
        : undefined;
  if (flag === undefined || flag === null) return `${path} ${show(value)}`;
  // The one flag that is given once for each of its values: they may have commas.
  if (flag === '--template' && Array.isArray(value)) {
    return value.map((item) => `${flag} ${show(item)}`).join(' ');
  }
  return value === true ? flag : `${flag} ${show(value)}`;
}

/** As a shell takes it. */
function show(value: unknown): string {
  if (Array.isArray(value) && value.every((item) => typeof item !== 'object')) return show(value.join(','));
  if (typeof value === 'string')
    return /^[\w./:,@%+=-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
  return JSON.stringify(value);
}
