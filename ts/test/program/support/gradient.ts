import { encodeModel } from '../../../src/onnx/model.ts';
import { createSession, fromOrt, runSession, toOrt } from '../../../src/onnx/runtime.ts';
import type { OnnxTensor } from '../../../src/onnx/tensor.ts';
import { product } from '../../../src/program/attributes.ts';
import { differentiate, outputGradientName } from '../../../src/program/autodiff.ts';
import { decompose } from '../../../src/program/decompose.ts';
import { OWN } from '../../../src/program/emitter.ts';
import { exportProgram } from '../../../src/program/export.ts';
import { fuse } from '../../../src/program/fuse.ts';
import type { Graph } from '../../../src/program/graph.ts';
import { specialize } from '../../../src/program/static.ts';

export type Feeds = Record<string, OnnxTensor>;

/** Deterministic values spread over (−1, 1), of mean about 0; no two alike. */
export function spread(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const x = Math.sin((i + 1) * 12.9898 + seed * 78.233) * 43758.5453;
    return 2 * (x - Math.floor(x)) - 1;
  });
}

export async function runGraph(graph: Graph, feeds: Feeds): Promise<Record<string, OnnxTensor>> {
  if (graph.outputs.length === 0) return {};
  const session = await createSession(encodeModel(exportProgram(graph)), {
    providers: ['cpu'],
    threads: 1,
    optimize: false,
    spin: false,
  });
  const names = [...graph.inputs, ...graph.parameters].map(({ name }) => name);
  const outputs = await runSession(
    session,
    Object.fromEntries(names.map((name) => [name, toOrt(feeds[name]!)])),
  );
  const result = Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, fromOrt(tensor)]));
  await session.release();
  return result;
}

/**
 * Gradients of Σ output · weights by every parameter: from the rules, and the slopes of finite differences along a random
 * direction of each parameter.
 */
export async function gradientsOf(
  graph: Graph,
  feeds: Feeds,
  weights: Record<string, Float32Array>,
  options: { fused?: boolean } = {},
): Promise<Map<string, Float32Array>> {
  const dims = Object.fromEntries(graph.inputs.map(({ name }) => [name, feeds[name]!.dims]));
  const specialized = specialize(graph, dims, { training: true });
  const parameters = new Set(graph.parameters.map(({ name }) => name));
  const outputs = graph.outputs.map(({ name }) => name);
  const differentiated = differentiate(options.fused ? fuse(specialized) : specialized, parameters, outputs);
  const all: Feeds = { ...feeds };
  for (const output of outputs) {
    const seed = { type: 'float32', dims: specialized.dims(output), data: weights[output]! } as const;
    all[outputGradientName(output)] = seed;
  }
  const results = await runGraph(decompose(differentiated.graph, [OWN]).toGraph(differentiated.outputs), all);
  const value = (name: string) => results[name] ?? all[name] ?? specialized.constants.get(name)!;
  const gradients = new Map<string, Float32Array>();
  for (const { name, dims: shape } of graph.parameters) {
    const gradient = new Float32Array(product(shape));
    const dense = differentiated.gradients.get(name);
    if (dense !== undefined) gradient.set(value(dense).data as Float32Array);
    for (const { parameter, indices, rows } of differentiated.rowGradients) {
      if (parameter !== name) continue;
      const width = gradient.length / shape[0]!;
      Array.from(value(indices).data as BigInt64Array, Number).forEach((index, i) => {
        const row = index < 0 ? index + shape[0]! : index;
        for (let j = 0; j < width; j++)
          gradient[row * width + j]! += value(rows).data[i * width + j] as number;
      });
    }
    gradients.set(name, gradient);
  }
  return gradients;
}

/** Σ output · weights, in float64. */
export async function lossOf(
  graph: Graph,
  feeds: Feeds,
  weights: Record<string, Float32Array>,
): Promise<number> {
  const dims = Object.fromEntries(graph.inputs.map(({ name }) => [name, feeds[name]!.dims]));
  const outputs = await runGraph(specialize(graph, dims, { training: true }).toGraph(), feeds);
  let sum = 0;
  for (const { name } of graph.outputs) {
    const { data } = outputs[name]!;
    for (let i = 0; i < data.length; i++) sum += (data[i] as number) * weights[name]![i]!;
  }
  return sum;
}
