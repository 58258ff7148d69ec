import type { Command } from 'commander';
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

export function trainingFlags(command: Command): Command {
  return trainerFlags(
    command
      .option('--student <name>', "architecture by name, such as 'mini-64' or 'vit-b-32' (default: mini-64)")
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
