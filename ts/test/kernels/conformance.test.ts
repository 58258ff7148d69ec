import { describe } from 'vitest';
import { type Device, devices } from '../../src/native/devices.ts';
import { balanceSuite } from './balance.suite.ts';
import { forestSuite } from './forest.suite.ts';
import { incrementalSuite } from './incremental.suite.ts';
import { kmeansSuite } from './kmeans.suite.ts';
import { lossSuite } from './loss.suite.ts';
import { nearestSuite } from './nearest.suite.ts';
import { pairsSuite } from './pairs.suite.ts';
import { semdedupSuite } from './semdedup.suite.ts';

// The same tests for every device of this machine: they all give the reference's answer, bit for bit; the loss within a bound.
const report = devices();
const usable = report.devices.filter((info) => info.usable);
if (!usable.some((info) => info.device.startsWith('cuda'))) {
  process.stdout.write(
    `conformance: on the CPU alone, since there is no usable GPU (${report.auto.reason})\n`,
  );
}

for (const { device, architecture } of usable) {
  describe(`${device} (${architecture})`, () => {
    balanceSuite(device as Device);
    forestSuite(device as Device);
    incrementalSuite(device as Device);
    kmeansSuite(device as Device);
    lossSuite(device as Device);
    nearestSuite(device as Device);
    pairsSuite(device as Device);
    semdedupSuite(device as Device);
  });
}
