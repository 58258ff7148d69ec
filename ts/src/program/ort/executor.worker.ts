import { fromOrt, runSession, toOrt } from '../../onnx/runtime.ts';
import { type Reply, serve } from '../../onnx/serve.ts';
import { newData, type OnnxTensor } from '../../onnx/tensor.ts';
import { type Differentiated, gradientSumName, outputGradientName } from '../autodiff.ts';
import type { ExecutorState, Parameter, Tensor, Tensors, UpdateOptions } from '../executor.ts';
import type { Graph } from '../graph.ts';
import { unbiasedFactor } from '../statistics.ts';
import { type Program, Programs } from './programs.ts';
import { ParameterStore } from './store.ts';

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

/** Rows of every tensor, without a copy. */
function rows(tensors: Tensors, from: number, count: number): Tensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { type, dims, data }]) => {
      const width = data.length / dims[0]!;
      const part = data.subarray(from * width, (from + count) * width) as Tensor['data'];
      return [name, { type, dims: dims.with(0, count), data: part }];
    }),
  );
}

/** Inputs (and gradients) of each part that a batch is run in; as they are when it is one. */
function* partsOf(sizes: readonly number[], ...all: readonly Tensors[]): Generator<Tensors[]> {
  let from = 0;
  for (const size of sizes) {
    yield sizes.length === 1 ? [...all] : all.map((tensors) => rows(tensors, from, size));
    from += size;
  }
}

async function forward(call: {
  graph: string;
  inputs: Tensors;
  training: boolean;
  parameters: 'current' | 'ema';
}): Promise<Reply> {
  const { graph, training } = call;
  const sizes = programs.parts(graph, dimsOf(call.inputs), { training, backward: false });
  const names = graphs[graph]!.outputs.map(({ name }) => name);
  const parts: Record<string, OnnxTensor>[] = [];
  const transfer = new Set<ArrayBuffer>();
  for (const [inputs] of partsOf(sizes, call.inputs) as Iterable<[Tensors]>) {
    const program = await programs.forward(graph, dimsOf(inputs), training);
    const value = await run(program, inputs, call.parameters);
    parts.push(Object.fromEntries(names.map((name) => [name, value(name)])));
    const computed = sizes.length === 1 ? program.graph.outputs : [];
    for (const { name } of computed) transfer.add(value(name).data.buffer as ArrayBuffer);
  }
  if (parts.length === 1) return { result: parts[0], transfer: [...transfer] };
  const result = Object.fromEntries(names.map((name) => [name, stack(parts.map((part) => part[name]!))]));
  return { result, transfer: Object.values(result).map(({ data }) => data.buffer as ArrayBuffer) };
}

/** Parts one after the other along the first axis. */
function stack(parts: readonly OnnxTensor[]): OnnxTensor {
  const { type, dims } = parts[0]!;
  const data = newData(
    type,
    parts.reduce((sum, part) => sum + part.data.length, 0),
  );
  let offset = 0;
  for (const part of parts) {
    (data as Float32Array).set(part.data as Float32Array, offset);
    offset += part.data.length;
  }
  return {
    type,
    dims: dims.with(
      0,
      parts.reduce((sum, part) => sum + part.dims[0]!, 0),
    ),
    data,
  };
}

async function backward(call: { graph: string; inputs: Tensors; outputGradients: Tensors }): Promise<Reply> {
  const { graph } = call;
  const outputs = Object.keys(call.outputGradients).sort();
  const sizes = programs.parts(graph, dimsOf(call.inputs), { training: true, backward: true });
  for (const [inputs, gradients] of partsOf(sizes, call.inputs, call.outputGradients) as Iterable<
    [Tensors, Tensors]
  >) {
    const program = await programs.gradient(graph, dimsOf(inputs), store.learned, outputs);
    const seeds = outputs.map((name) => [outputGradientName(name), gradients[name]!]);
    const sums = [...program.differentiated.gradients.keys()].map((name) => [
      gradientSumName(name),
      store.gradient(name),
    ]);
    const value = await run(program, { ...inputs, ...Object.fromEntries([...seeds, ...sums]) }, 'current');
    accumulate(program.differentiated, value);
  }
  return {};
}

function accumulate(
  { gradients, rowGradients, statistics }: Differentiated,
  value: (name: string) => OnnxTensor,
): void {
  for (const [parameter, name] of gradients)
    store.gradient(parameter).data.set(value(name).data as Float32Array);
  for (const { parameter, indices, rows: added } of rowGradients) {
    store.addRows(parameter, value(indices).data as Int32Array, value(added).data as Float32Array);
  }
  for (const { mean, variance, batchMean, batchVariance, momentum, count } of statistics) {
    store.average(mean, value(batchMean).data as Float32Array, momentum, 1);
    store.average(variance, value(batchVariance).data as Float32Array, momentum, unbiasedFactor(count));
  }
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
