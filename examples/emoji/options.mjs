import { parseArgs } from 'node:util';

/** Options of a script, as `parseArgs` takes them; --help, and an option that is not there, end the process with the usage. */
export function readOptions(usage, options) {
  let values;
  try {
    ({ values } = parseArgs({ options: { ...options, help: { type: 'boolean', default: false } } }));
  } catch (error) {
    console.error(`${error.message}\n\nUsage: ${usage}`);
    process.exit(2);
  }
  if (values.help) {
    console.log(`Usage: ${usage}`);
    process.exit();
  }
  return values;
}

/** A seed, or seeds with commas between them; anything else ends the process. */
export function readSeeds(name, text) {
  const seeds = text.split(',').map((part) => (/^\d+$/.test(part) ? Number(part) : -1));
  if (seeds.every((seed) => seed >= 0 && Number.isSafeInteger(seed))) return seeds;
  console.error(`Expected integers of at least 0 with commas between them for ${name} but received ${text}`);
  process.exit(2);
}
