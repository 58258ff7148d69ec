import type { Command } from 'commander';
import { studentConfig, studentNames } from '../student/config.ts';
import { studentParameters } from '../student/towers.ts';
import { bytes, type CommonFlags, deviceMemoryOption, number } from './common.ts';

/** Flags of every training. What has no flag (augmentation, sizes by number, …) is set in a configuration file. */
export interface TrainerFlags extends CommonFlags {
  epochs?: number;
  steps?: number;
  batchSize?: number;
  microBatch?: number;
  rate?: number;
  warmup?: number;
  decay?: number;
  ema?: number;
  exportDtype?: string;
  executor?: string;
  maxActivationMemory?: number;
  precision?: string;
}

/** Flags of the trainings of a student. */
export interface TrainingFlags extends TrainerFlags {
  student?: string;
  init?: string;
  imageModel?: string;
}

/** Sizes of the students that have a name, for --help. */
export function studentTable(): string {
  const rows = studentNames.map((name) => {
    const { embedDim, vision } = studentConfig(name);
    const { image, text } = studentParameters(name);
    return [name, ...[image, text].map(millions), String(embedDim), `${vision.imageSize} px`];
  });
  const head = ['', 'image tower', 'text tower', 'embedding', 'image'];
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]!.length)));
  const lines = [head, ...rows].map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join('  '),
  );
  return `
Students by name: parameters of both towers in millions, width of the embeddings, side of the image.
${lines.map((line) => `  ${line}`).join('\n')}
The text tower is given for CLIP's 49,408 tokens; another tokenizer changes it by its width a token. Other sizes are
set by numbers: "student": { "base": "mini-64", "vision": { "layers": 4 } } in the command's section of a configuration file.`;
}

const millions = (value: number) => (value / 1e6).toFixed(2);

export function trainingFlags(command: Command): Command {
  return trainerFlags(
    command
      .option('--student <name>', 'architecture by name, see below (default: mini-64)')
      .option(
        '--init <dir>',
        'model folder to start from, an exported student or any CLIP, instead of --student',
      )
      .option('--image-model <file>', 'ONNX file of any image encoder to be the image tower'),
    'rows of a step, all in one loss (default: 256)',
  );
}

/** @param batch What `--batch-size` counts, and its default. */
export function trainerFlags(command: Command, batch: string): Command {
  return command
    .addOption(number('--epochs <n>', 'passes over the items (default: 32)').conflicts('steps'))
    .addOption(number('--steps <n>', 'optimiser steps, instead of --epochs'))
    .addOption(number('--batch-size <n>', batch))
    .addOption(number('--micro-batch <n>', 'rows that run through a tower at once: memory (default: 64)'))
    .addOption(number('--rate <rate>', 'highest learning rate (default: 0.001)'))
    .addOption(number('--warmup <steps>', 'steps of linear warm-up (default: a tenth of all)'))
    .addOption(number('--decay <weight>', 'weight decay (default: 0.2)'))
    .addOption(
      number('--ema <decay>', 'validate and export a moving average of the parameters (default: none)'),
    )
    .option(
      '--export-dtype <type>',
      "weights of the exported model: 'float32' or 'float16' (default: float32)",
    )
    .option(
      '--executor <name>',
      "'native', or 'onnxruntime', which is slower (default: native where it has every operator)",
    )
    .addOption(
      bytes(
        '--max-activation-memory <size>',
        "of a tower's micro-batch; below what it takes, part of the forward pass is run again (default: no limit)",
      ),
    )
    .addOption(deviceMemoryOption("most of a GPU's memory that training may hold (default: what is free)"))
    .option(
      '--precision <name>',
      "of large products: 'float32', or 'bf16', where the processor has it: faster, another student (default: float32)",
    );
}

/** The flags as a section of the configuration. */
export function trainingSection(flags: TrainingFlags): Record<string, unknown> {
  const { student, init, imageModel } = flags;
  return { student, init, imageModel, ...trainerSection(flags) };
}

export function trainerSection(flags: TrainerFlags): Record<string, unknown> {
  const {
    epochs,
    steps,
    batchSize,
    microBatch,
    rate,
    warmup,
    decay,
    ema,
    exportDtype,
    executor,
    maxActivationMemory,
    precision,
  } = flags;
  // One of the two replaces whichever a configuration has.
  const length =
    epochs !== undefined ? { epochs, steps: null } : steps !== undefined ? { steps, epochs: null } : {};
  return {
    ...length,
    batchSize,
    microBatch,
    rate,
    warmup,
    decay,
    ema,
    exportDtype,
    executor,
    maxActivationMemory,
    precision,
  };
}
