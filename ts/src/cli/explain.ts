import type { Command } from 'commander';
import { expectInteger, expectOneOf } from '../native/check.ts';
import type { Explanation, OperationCosts, PassPlan } from '../program/native/explain.ts';
import { bytes, number, outputFlags, runCommand, UsageError } from './common.ts';

interface Flags {
  batch: number;
  size?: readonly string[];
  output?: string;
  maxActivationMemory?: number;
  precision: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

export function explainCommand(program: Command): void {
  outputFlags(program.command('explain'))
    .argument('<model>', 'ONNX file')
    .description(
      'show how a model would be run and trained: operations, work, memory, what was fused, what is missing',
    )
    .addOption(number('--batch <b>', 'size of an open first axis').default(32))
    .option(
      '--size <axis=n>',
      'size of another open axis, by its name in the file; may be repeated',
      (text: string, before: readonly string[] = []) => [...before, text],
    )
    .option('--output <name>', 'only what this output needs (default: all outputs)')
    .addOption(
      bytes('--max-activation-memory <size>', 'what training may take beside parameters and their state'),
    )
    .option('--precision <name>', "of training's large products: 'float32' or 'bf16'", 'float32')
    .addOption(number('--threads <n>', 'threads, each of which needs memory of its own (default: all cores)'))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid explain student/model/onnx/vision_model.onnx
  $ clip-cid explain student/model/onnx/text_model.onnx --batch 256 --size sequence=77
  $ clip-cid explain student/model/onnx/vision_model.onnx --batch 64 --max-activation-memory 100MB --threads 8
  $ clip-cid explain student/model/onnx/vision_model.onnx --precision bf16
  $ clip-cid explain vision_model.onnx --output image_embeds --json

Training is that of all weights that look learned, by our own executor. Where it lacks an operation the node is named, and training
takes ONNX Runtime. A size is what the model was made for: a text model's sequence is max_position_embeddings of its config.json. MB are
10^6 bytes.`,
    )
    .action((model: string, flags: Flags) =>
      runCommand(flags, async ({ print }) => {
        const batch = expectInteger('batch', flags.batch, 1, 2 ** 31 - 1);
        const { maxActivationMemory } = flags;
        const limit =
          maxActivationMemory === undefined
            ? undefined
            : expectInteger('maxActivationMemory', maxActivationMemory, 1);
        const sizes = Object.fromEntries((flags.size ?? []).map(sizeOf));
        const { readModel } = await import('../onnx/model.ts');
        const { importModel } = await import('../program/import.ts');
        const { outputsOnly } = await import('../program/compose.ts');
        const { explain } = await import('../program/native/explain.ts');
        const { PRECISIONS } = await import('../program/precision.ts');
        const { threads: cores } = await import('../native/devices.ts');
        const threads = expectInteger('threads', flags.threads ?? cores(), 1, 1024);
        const precision = expectOneOf('precision', flags.precision, PRECISIONS);
        const { graph, parameters } = importModel(await readModel(model));
        const chosen = flags.output === undefined ? graph : outputsOnly(graph, [flags.output]);
        const used = new Set(chosen.parameters.map(({ name }) => name));
        const explanation = explain(
          chosen,
          parameters.filter(({ name }) => used.has(name)),
          batch,
          sizes,
          { maxActivationMemory: limit, precision, threads },
        );
        print({ model, batch, threads, ...explanation }, describe(model, explanation, threads));
      }),
    );
}

function sizeOf(text: string): [string, number] {
  const [, axis, digits] = /^(.+)=(\d+)$/.exec(text) ?? [];
  if (axis === undefined) throw new UsageError(`Expected AXIS=N for --size but received ${text}`);
  return [axis, expectInteger(`size ${axis}`, Number(digits), 1, 2 ** 31 - 1)];
}

function describe(model: string, explanation: Explanation, threads: number): string {
  const { inputs, outputs, parameters, nodes, fused, unfused, unsupported, inference, training, state } =
    explanation;
  const { precision } = explanation;
  const lines: string[] = [];
  const line = (name: string, text: string) => lines.push(`${name.padEnd(12)}${text}`);
  line('model', model);
  for (const [name, values] of [
    ['input', inputs],
    ['output', outputs],
  ] as const) {
    for (const value of values) line(name, `${value.name}: ${value.type} [${value.dims.join(', ')}]`);
  }
  line('parameters', `${whole(parameters.all)}, ${whole(parameters.learned)} of them learned`);
  line('nodes', `${nodes.given} in the file, ${nodes.shaped} at these shapes, ${nodes.fused} after fusion`);
  line('fused', fused.map(({ op, nodes: list }) => `${list.length} ${op}`).join(', ') || 'nothing');
  for (const { op, node, of } of unfused) {
    line(
      'not fused',
      `${op} (node '${node}') is not in the form of ${of} that is known: it runs step by step`,
    );
  }
  if (unsupported.length === 0) line('missing', 'nothing: our own executor trains it');
  for (const { op, node, why } of unsupported) {
    line('missing', node === undefined ? why : `${op} (node '${node}') ${why}`);
  }
  if (inference) lines.push('', ...table('outputs alone', inference, [['forward', inference.forward]]));
  if (training) {
    const passes = [
      ['forward', training.forward],
      ['backward', training.backward],
    ] as const;
    lines.push('', ...table(`training, ${precision}`, training, passes));
    const saved = training.saved.reduce((sum, { bytes }) => sum + bytes, 0);
    const { parameters: values, gradients, moments } = state;
    lines.push(
      '',
      `training holds ${megabytes(values + gradients + moments + training.activations)} MB: parameters ${megabytes(values)}, ` +
        `gradients ${megabytes(gradients)}, moments ${megabytes(moments)}, activations ${megabytes(training.activations)} on ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
      `of the activations, ${megabytes(saved)} MB are kept for the backward pass; the largest:`,
      ...training.saved.slice(0, 5).map(({ name, bytes }) => `  ${megabytes(bytes).padStart(9)}  ${name}`),
    );
  }
  return lines.join('\n');
}

function table(
  title: string,
  { parts, activations }: PassPlan,
  passes: readonly (readonly [name: string, costs: readonly OperationCosts[]])[],
): string[] {
  const row = (cells: readonly string[]) =>
    `${cells[0]!.padEnd(28)}${cells
      .slice(1)
      .map((cell) => cell.padStart(11))
      .join('')}`;
  const rows = passes.flatMap(([name, costs]) => [
    ...costs.map(({ op, runs, flops, bytes }) =>
      row([`  ${op}`, whole(runs), (flops / 1e9).toFixed(2), megabytes(bytes)]),
    ),
    row([
      `  ${name} in all`,
      ...[whole(sum(costs, 'runs')), (sum(costs, 'flops') / 1e9).toFixed(2), megabytes(sum(costs, 'bytes'))],
    ]),
  ]);
  const how = parts === 1 ? 'in one part' : `in ${parts} parts`;
  return [
    row([title, 'runs', 'GFLOP', 'MB']),
    ...rows,
    `  ${how}, with ${megabytes(activations)} MB beside the parameters`,
  ];
}

function sum(costs: readonly OperationCosts[], field: 'runs' | 'flops' | 'bytes'): number {
  return costs.reduce((before, cost) => before + cost[field], 0);
}

function whole(value: number): string {
  return value.toLocaleString('en');
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toLocaleString('en', { maximumFractionDigits: 1, minimumFractionDigits: 1 });
}
