import { GraphBuilder } from '../program/builder.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { linear, Parameters, quickGelu } from './layers.ts';

export interface MlpConfig {
  /** Names of the input [batch, from] and of the output [batch, to]. */
  readonly input: string;
  readonly output: string;
  readonly from: number;
  /** Width of the hidden layer, with quick-GELU; 0 for a linear map. */
  readonly hidden: number;
  readonly to: number;
  /** Factor on the spread of the last layer's starting weights. Defaults to 1. */
  readonly gain?: number;
}

/** A small network on features; `name` is the graph's, and the prefix of its parameters. */
export function buildMlp(
  name: string,
  config: MlpConfig,
  seed: number,
): { graph: Graph; parameters: Parameter[] } {
  const { input, output, from, hidden, to, gain = 1 } = config;
  const builder = new GraphBuilder(name);
  const parameters = new Parameters(seed);
  let x = builder.input(input, 'float32', ['batch', from]);
  if (hidden > 0)
    x = quickGelu(builder, linear(builder, parameters, `${name}.in`, x, from, hidden, from ** -0.5));
  const last = hidden > 0 ? hidden : from;
  builder.output(output, linear(builder, parameters, `${name}.out`, x, last, to, gain * last ** -0.5), [
    'batch',
    to,
  ]);
  return { graph: builder.build(), parameters: parameters.list };
}
