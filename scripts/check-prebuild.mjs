// Loads what `npm run prebuild` packed, as an installed package would, and asks it for its devices.
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL(`../prebuilds/${process.platform}-${process.arch}/`, import.meta.url));
const names = readdirSync(folder).filter((name) => name.endsWith('.node'));
if (names.length === 0) throw new Error(`No binary in ${folder}: run npm run prebuild`);
for (const name of names) {
  const addon = createRequire(import.meta.url)(folder + name);
  const devices = addon.devices().map((device) => device.device);
  if (!devices.includes('cpu')) throw new Error(`${name} loads but lists no CPU: ${devices}`);
  console.log(`${name}: version ${addon.version}, devices ${devices.join(', ')}`);
}
