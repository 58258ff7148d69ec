import { fromOrt, runSession, toOrt } from '../../onnx/runtime.ts';
import { type Reply, serve } from '../../onnx/serve.ts';
import type { OnnxTensor } from '../../onnx/tensor.ts';
import { outputGradientName } from '../autodiff.ts';
import type { ExecutorState, Parameter, Tensors, UpdateOptions } from '../executor.ts';
import type { Graph } from '../graph.ts';
import { type Program, Programs } from './programs.ts';
import { ParameterStore, unbiasedFactor } from './store.ts';

let store: ParameterStore;
let programs: Programs;
let graphs: Readonly<Record<string, Graph>>;

async function open(options: {
  graphs: Readonly<Record<string, Graph>>;
  parameters: readonly Parameter[];
  threads: number;
}): Promise<Reply> {
  graphs = options.graphs;
  store = new ParameterStore(options.parameters, options.threads);
  programs = new Programs(graphs, options.threads);
  return {};
}

/** Runs a program; the lookup also finds inputs and constants, which no session computes. */
async function run(
  program: Program,
  inputs: Tensors,
  which: 'current' | 'ema',
): Promise<(name: string) => OnnxTensor> {
  const { graph, session, constants } = program;
  const feeds = Object.fromEntries([
    ...graph.inputs.map(({ name }) => [name, toOrt(inputs[name]!)]),
    ...graph.parameters.map(({ name, dims }) => [
      name,
      toOrt({ type: 'float32', dims, data: store.value(name, which) }),
    ]),
  ]);
  const outputs = session ? await runSession(session, feeds) : {};
  return (name) => {
    const output = outputs[name];
    return output ? fromOrt(output) : (inputs[name] ?? constants.get(name)!);
  };
}

const dimsOf = (tensors: Tensors) =>
  Object.fromEntries(Object.entries(tensors).map(([name, { dims }]) => [name, dims]));

async function forward(call: {
  graph: string;
  inputs: Tensors;
  training: boolean;
  parameters: 'current' | 'ema';
}): Promise<Reply> {
  const program = await programs.forward(call.graph, dimsOf(call.inputs), call.training);
  const value = await run(program, call.inputs, call.parameters);
  const computed = new Set(program.graph.outputs.map(({ name }) => name));
  const names = graphs[call.graph]!.outputs.map(({ name }) => name);
  const result = Object.fromEntries(names.map((name) => [name, value(name)]));
  const transfer = names
    .filter((name) => computed.has(name))
    .map((name) => result[name]!.data.buffer as ArrayBuffer);
  return { result, transfer: [...new Set(transfer)] };
}

async function backward(call: { graph: string; inputs: Tensors; outputGradients: Tensors }): Promise<Reply> {
  const outputs = Object.keys(call.outputGradients).sort();
  const program = await programs.gradient(call.graph, dimsOf(call.inputs), store.learned, outputs);
  const seeds = outputs.map((name) => [outputGradientName(name), call.outputGradients[name]!]);
  const value = await run(program, { ...call.inputs, ...Object.fromEntries(seeds) }, 'current');
  const { gradients, rowGradients, statistics } = program.differentiated;
  for (const [parameter, name] of gradients) store.addGradient(parameter, value(name).data as Float32Array);
  for (const { parameter, indices, rows } of rowGradients) {
    store.addRows(parameter, value(indices).data as Int32Array, value(rows).data as Float32Array);
  }
  for (const { mean, variance, batchMean, batchVariance, momentum, count } of statistics) {
    store.average(mean, value(batchMean).data as Float32Array, momentum, 1);
    store.average(variance, value(batchVariance).data as Float32Array, momentum, unbiasedFactor(count));
  }
  return {};
}

async function addGradient({ name, value }: { name: string; value: Float32Array }): Promise<Reply> {
  store.addGradient(name, value);
  return {};
}

async function update(options: UpdateOptions): Promise<Reply> {
  return { result: await store.update(options) };
}

async function save(): Promise<Reply> {
  const state = store.save();
  const arrays = [state.parameters, state.first, state.second, ...(state.ema ? [state.ema] : [])];
  return { result: state, transfer: arrays.map(({ buffer }) => buffer as ArrayBuffer) };
}

async function load(state: ExecutorState): Promise<Reply> {
  store.load(state);
  return {};
}

async function dispose(): Promise<Reply> {
  await programs.dispose();
  return {};
}

serve({ open, forward, backward, addGradient, update, save, load, dispose });
