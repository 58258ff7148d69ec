import { availableParallelism } from 'node:os';
import { afterEach, describe, expect, it } from 'vitest';
import {
  choose,
  chooseDevice,
  type Device,
  type DeviceInfo,
  devices,
  setThreads,
  threads,
} from '../../src/native/devices.ts';
import { packageVersion } from '../../src/native/loader.ts';

const cpu: DeviceInfo = {
  device: 'cpu',
  name: 'A processor',
  memory: 1,
  architecture: 'avx2',
  usable: true,
  bfloat16: true,
};
const old: DeviceInfo = {
  device: 'cuda:0',
  name: 'Old',
  memory: 1,
  architecture: '6.1',
  usable: false,
  bfloat16: false,
  reason: 'kernels need 8.0',
};
const gpu: DeviceInfo = {
  device: 'cuda:1',
  name: 'New',
  memory: 1,
  architecture: '9.0',
  usable: true,
  bfloat16: true,
};

describe('choice of a device', () => {
  it('takes the CPU unless a CUDA device is named, and says why', () => {
    const auto = choose('auto', [cpu, old, gpu], undefined);
    expect(auto.device).toBe('cpu');
    expect(auto.reason).toMatch(/not run on a real GPU.*ask for 'cuda:1' \(New\) by name/);
    expect(choose('auto', [cpu], 'no driver')).toEqual({
      device: 'cpu',
      reason: 'The CPU, since there is no usable CUDA device: no driver',
    });
    expect(choose('auto', [cpu, old], undefined).reason).toContain('kernels need 8.0');
    expect(choose('cuda', [cpu, old, gpu], undefined).device).toBe('cuda:1');
    expect(choose('cpu', [cpu, gpu], undefined).device).toBe('cpu');
  });

  it('never falls back from a named device', () => {
    const unavailable = (message: RegExp) =>
      expect.objectContaining({ code: 'DEVICE_UNAVAILABLE', message: expect.stringMatching(message) });
    expect(() => choose('cuda', [cpu], 'no driver')).toThrow(
      unavailable(/no driver.*Usable here: 'auto', 'cpu'/),
    );
    expect(() => choose('cuda', [cpu, old], undefined)).toThrow(unavailable(/kernels need 8.0/));
    expect(() => choose('cuda:0', [cpu, old, gpu], undefined)).toThrow(unavailable(/kernels need 8.0/));
    expect(() => choose('cuda:2', [cpu, gpu], undefined)).toThrow(unavailable(/no device of that number/));
    expect(() => choose('cuda:0', [cpu], 'no driver')).toThrow(unavailable(/no driver/));
  });

  it('refuses what is no device', () => {
    for (const bad of ['gpu', 'cuda:', 'cuda:x', 'cuda:01', 'CPU', '']) {
      expect(() => chooseDevice(bad as Device)).toThrow(RangeError);
    }
    expect(() => chooseDevice(1 as unknown as Device)).toThrow(TypeError);
  });
});

describe('devices()', () => {
  it('sees this machine', () => {
    const report = devices();
    expect(report.version).toBe(packageVersion);
    expect(report.addon).toMatch(/\.node$/);
    expect(report.devices[0]).toMatchObject({ device: 'cpu', usable: true, bfloat16: true });
    expect(typeof report.devices[0]!.bfloat16).toBe('boolean');
    expect(report.devices[0]!.memory).toBeGreaterThan(2 ** 20);
    expect(report.devices[0]!.architecture).toMatch(
      /^(plain|avx2(-vnni)?|avx512(-vnni)?|amx|neon(-dotprod)?)$/,
    );
    const gpus = report.devices.filter((info) => info.device.startsWith('cuda:'));
    expect(report.devices).toHaveLength(1 + gpus.length);
    if (gpus.length === 0) expect(report.cuda).toMatch(/\S/);
    else expect(report.cuda).toBeUndefined();
    expect(chooseDevice()).toEqual(report.auto);
    if (gpus.length === 0) expect(() => chooseDevice('cuda')).toThrow(report.cuda);
  });
});

describe('threads', () => {
  afterEach(() => setThreads(availableParallelism()));

  it('is one number for the process', () => {
    expect(threads()).toBe(availableParallelism());
    setThreads(3);
    expect(threads()).toBe(3);
    expect(devices().threads).toBe(3);
    expect(() => setThreads(0)).toThrow(RangeError);
    expect(() => setThreads('2' as unknown as number)).toThrow(TypeError);
    expect(threads()).toBe(3);
  });
});
