import { availableParallelism } from 'node:os';
import type { NativeDeviceInfo } from './addon.ts';
import { expectInteger, expectOneOf, failRange, failType } from './check.ts';
import { CidError } from './errors.ts';
import { INSTRUCTIONS, type Instructions } from './instructions.ts';
import { addonPath, loadAddon, packageVersion } from './loader.ts';

/**
 * Where work is done. `'cuda'` is the first usable CUDA device, `'cuda:1'` the one with that number. A device that is
 * named never falls back to another; `'auto'` is the CPU, until the kernels for CUDA have run on a real GPU.
 */
export type Device = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** A device that was chosen. */
export interface ChosenDevice {
  /** `'cpu'` or `'cuda:N'`. */
  readonly device: string;
  /** Why this one, in a sentence. */
  readonly reason: string;
}

export type DeviceInfo = NativeDeviceInfo;

/** What {@link devices} reports. */
export interface DevicesReport {
  /** Version of the package and of its native core. */
  readonly version: string;
  /** File of the native core. */
  readonly addon: string;
  /** The CPU first, then CUDA devices by number, usable or not. */
  readonly devices: readonly DeviceInfo[];
  /** What `device: 'auto'` takes, and why. */
  readonly auto: ChosenDevice;
  /** Why there is no CUDA device; absent when there is one. */
  readonly cuda?: string;
  /** The process's number of threads, see {@link setThreads}. */
  readonly threads: number;
}

/**
 * Devices of this machine as the native core sees them, and what `'auto'` would take.
 *
 * @throws CidError ADDON_NOT_FOUND.
 */
export function devices(): DevicesReport {
  const addon = loadAddon();
  const found = addon.devices();
  const cuda = addon.cudaStatus();
  return {
    version: packageVersion,
    addon: addonPath(),
    devices: found,
    auto: choose('auto', found, cuda),
    ...(cuda === undefined ? {} : { cuda }),
    threads: threads(),
  };
}

/**
 * Device for a request. Defaults to `'auto'`.
 *
 * @throws CidError DEVICE_UNAVAILABLE, with the reason, when a named device is not there or not usable.
 */
export function chooseDevice(device: Device = 'auto'): ChosenDevice {
  checkDevice(device);
  let choice = choices.get(device);
  if (choice === undefined) {
    const addon = loadAddon();
    choice = choose(device, addon.devices(), addon.cudaStatus());
    choices.set(device, choice);
  }
  return choice;
}

/** Kept, because a query of the CUDA driver costs more than a small call of a kernel. */
const choices = new Map<Device, ChosenDevice>();

function checkDevice(device: unknown): void {
  const what = "'auto', 'cpu', 'cuda' or 'cuda:N'";
  if (typeof device !== 'string') failType(what, 'device', device);
  if (!/^(auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?)$/.test(device)) failRange(what, 'device', device);
}

/** The rule of choice, over what the native core found. Exported for its test. */
export function choose(device: Device, found: readonly DeviceInfo[], cuda: string | undefined): ChosenDevice {
  const gpus = found.filter((info) => info.device.startsWith('cuda'));
  const usable = gpus.find((info) => info.usable);
  const why = gpus.length === 0 ? (cuda ?? 'no CUDA device was found') : gpus.map(unusable).join('; ');

  if (device === 'auto') {
    return usable === undefined
      ? { device: 'cpu', reason: `The CPU, since there is no usable CUDA device: ${why}` }
      : {
          device: 'cpu',
          reason: `The CPU: kernels for CUDA have not run on a real GPU yet; ask for '${usable.device}' (${usable.name}) by name`,
        };
  }
  if (device === 'cuda') {
    if (usable === undefined) throw unavailable(device, why, found);
    return { device: usable.device, reason: `${usable.name}, the first usable CUDA device` };
  }
  const info = found.find((candidate) => candidate.device === device);
  if (info === undefined) {
    throw unavailable(device, gpus.length === 0 ? why : 'there is no device of that number', found);
  }
  if (!info.usable) throw unavailable(device, unusable(info), found);
  return { device, reason: `${info.name}, as asked for` };
}

function unusable(info: DeviceInfo): string {
  return `${info.device} (${info.name}) is not usable: ${info.reason ?? 'no reason was given'}`;
}

function unavailable(device: string, why: string, found: readonly DeviceInfo[]): CidError {
  const usable = found.filter((info) => info.usable).map((info) => `'${info.device}'`);
  return new CidError(
    'DEVICE_UNAVAILABLE',
    `Device '${device}' is not available: ${why}. Usable here: ${["'auto'", ...usable].join(', ')}`,
  );
}

let processThreads: number | undefined;

/**
 * Number of threads that kernels, ONNX Runtime and image decoding share in this process, where a call doesn't name its
 * own. Defaults to the processors that this process may use.
 */
export function threads(): number {
  return processThreads ?? availableParallelism();
}

/** Sets {@link threads}, 1 to 1,024. A worker thread has a number of its own. */
export function setThreads(count: number): void {
  processThreads = expectInteger('threads', count, 1, 1024);
}

/**
 * Makes the CPU's kernels use an instruction set, or the best below it that this machine has; the environment variable `CLIP_CID_SIMD` does the same.
 * Results do not depend on it, except that losses and gradients are rounded differently. Defaults to the best of the machine.
 *
 * @throws CidError INVALID_CONFIG when this process uses another one already: set it before anything else.
 * @throws CidError ADDON_NOT_FOUND.
 */
export function setInstructions(name: Instructions): void {
  expectOneOf('instructions', name, INSTRUCTIONS);
  const addon = loadAddon();
  if (addon.setInstructions(name)) return;
  throw new CidError(
    'INVALID_CONFIG',
    `This process uses the instruction set '${addon.devices()[0]!.architecture}' already: set '${name}' before anything else is called`,
  );
}
