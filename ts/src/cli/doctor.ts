import { existsSync } from 'node:fs';
import { totalmem } from 'node:os';
import type { Command } from 'commander';
import { type DevicesReport, devices } from '../native/devices.ts';
import { packageRoot, packageVersion } from '../native/loader.ts';
import { environment } from '../run/folder.ts';
import { FAILED, outputFlags, runCommand } from './common.ts';

type Part<T> = ({ ok: true } & T) | { ok: false; problem: string };

export function doctorCommand(program: Command): void {
  outputFlags(program.command('doctor'))
    .description('check the installation: what works on this machine, what does not, and why')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid doctor
  $ clip-cid doctor --json

Ends with 1 when a part that everything needs does not work. A missing CUDA device is no failure.`,
    )
    .action(async (flags: { json?: boolean; quiet?: boolean }) => {
      let broken = false;
      await runCommand(flags, async ({ print }) => {
        const found = await examine();
        broken = !found.core.ok || !found.onnxRuntime.ok || !found.sharp.ok;
        print({ ...found }, describe(found));
      });
      if (broken) process.exitCode = FAILED;
    });
}

interface Diagnosis {
  package: { version: string; folder: string };
  environment: ReturnType<typeof environment> & { memory: number };
  core: Part<Omit<DevicesReport, 'version'>>;
  onnxRuntime: Part<{ version: string; providers: { name: string; bundled: boolean }[] }>;
  sharp: Part<{ version: string; libvips: string; formats: string[] }>;
}

async function examine(): Promise<Diagnosis> {
  return {
    package: { version: packageVersion, folder: packageRoot },
    environment: { ...environment(), memory: totalmem() },
    core: await part(() => {
      const { version: _version, ...rest } = devices();
      return rest;
    }),
    onnxRuntime: await part(async () => {
      const ort = await import('onnxruntime-node');
      return {
        version: ort.env.versions.node ?? 'unknown',
        providers: ort.listSupportedBackends().map(({ name, bundled }) => ({ name, bundled })),
      };
    }),
    sharp: await part(async () => {
      const { default: sharp } = await import('sharp');
      const formats = Object.values(sharp.format)
        .filter((format) => format.input.buffer)
        .map((format) => format.id);
      return { version: sharp.versions.sharp ?? 'unknown', libvips: sharp.versions.vips, formats };
    }),
  };
}

async function part<T>(look: () => T | Promise<T>): Promise<Part<T>> {
  try {
    return { ok: true, ...(await look()) };
  } catch (error) {
    return { ok: false, problem: (error as Error).message };
  }
}

function describe({ package: own, environment: machine, core, onnxRuntime, sharp }: Diagnosis): string {
  const lines: string[] = [];
  const line = (name: string, text: string) => lines.push(`${name.padEnd(15)}${text}`);
  line(
    'clip-cid',
    `${own.version} (${own.folder}${existsSync(`${own.folder}/CMakeLists.txt`) ? ', a clone' : ''})`,
  );
  line('Node', `${machine.node} on ${machine.platform} ${machine.release}, ${machine.arch}`);
  line('CPU', `${machine.cpu}, ${machine.cores} cores, ${gigabytes(machine.memory)} of memory`);
  if (core.ok) {
    line('Native core', core.addon);
    for (const { device, name, architecture, memory, usable, reason, bfloat16 } of core.devices) {
      const state = usable ? '' : `, not usable: ${reason ?? 'no reason was given'}`;
      const precision = bfloat16 ? ', trains in bf16 too' : '';
      line(`  ${device}`, `${name}, ${architecture}${precision}, ${gigabytes(memory)}${state}`);
    }
    if (core.cuda !== undefined) line('  cuda', `none: ${core.cuda}`);
    line('  auto', `${core.auto.device}. ${core.auto.reason}`);
    line('  threads', String(core.threads));
  } else {
    line('Native core', `DOES NOT WORK. ${core.problem}`);
  }
  if (onnxRuntime.ok) {
    const providers = onnxRuntime.providers.map(({ name, bundled }) =>
      bundled ? name : `${name} (libraries not installed with it)`,
    );
    line('ONNX Runtime', `${onnxRuntime.version}, providers: ${providers.join(', ')}`);
  } else line('ONNX Runtime', `DOES NOT WORK. ${onnxRuntime.problem}`);
  if (sharp.ok)
    line('sharp', `${sharp.version}, libvips ${sharp.libvips}, reads ${sharp.formats.join(', ')}`);
  else line('sharp', `DOES NOT WORK. ${sharp.problem}`);
  return lines.join('\n');
}

function gigabytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
