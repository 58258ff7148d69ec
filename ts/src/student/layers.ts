import type { GraphBuilder } from '../program/builder.ts';
import type { Parameter } from '../program/executor.ts';
import { Random, streams } from './random.ts';

/** How a parameter starts; 'ones' and 'zeros' are those of norms and biases. */
export interface Initial {
  std: number | 'ones' | 'zeros';
  /** Takes weight decay. */
  decay: boolean;
}

/**
 * Collects parameters while a graph is written. Each draws its values from a stream of its own name, so that a change to one
 * part leaves the others' starting values as they are.
 */
export class Parameters {
  readonly list: Parameter[] = [];
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = seed;
  }

  add(builder: GraphBuilder, name: string, dims: readonly number[], { std, decay }: Initial): string {
    const length = dims.reduce((product, dim) => product * dim, 1);
    const value = new Float32Array(length);
    if (std === 'ones') value.fill(1);
    else if (std !== 'zeros') {
      const random = new Random(this.#seed, streams.initial, fnv1a(name));
      for (let i = 0; i < length; i++) value[i] = std * random.normal();
    }
    this.list.push({ name, dims, value, decay, trainable: true });
    return builder.parameter(name, dims);
  }
}

/** For a graph whose values come from elsewhere. */
export class NoParameters extends Parameters {
  override add(builder: GraphBuilder, name: string, dims: readonly number[]): string {
    return builder.parameter(name, dims);
  }
}

/** For the number of values alone: none is drawn. */
export class CountedParameters extends Parameters {
  count = 0;

  override add(builder: GraphBuilder, name: string, dims: readonly number[]): string {
    this.count += dims.reduce((product, dim) => product * dim, 1);
    return builder.parameter(name, dims);
  }
}

function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** Layer normalisation over the last axis, of `width`. */
export function norm(
  builder: GraphBuilder,
  parameters: Parameters,
  name: string,
  x: string,
  width: number,
): string {
  const weight = parameters.add(builder, `${name}.weight`, [width], { std: 'ones', decay: false });
  const bias = parameters.add(builder, `${name}.bias`, [width], { std: 'zeros', decay: false });
  return builder.op('LayerNormalization', [x, weight, bias], { axis: -1, epsilon: 1e-5 });
}

/** x W + b over the last axis. */
export function linear(
  builder: GraphBuilder,
  parameters: Parameters,
  name: string,
  x: string,
  from: number,
  to: number,
  std: number,
): string {
  const weight = parameters.add(builder, `${name}.weight`, [from, to], { std, decay: true });
  const bias = parameters.add(builder, `${name}.bias`, [to], { std: 'zeros', decay: false });
  return builder.op('Add', [builder.op('MatMul', [x, weight]), bias]);
}

/** x · sigmoid(1.702 x), as CLIP has it. */
export function quickGelu(builder: GraphBuilder, x: string): string {
  const gate = builder.op('Sigmoid', [builder.op('Mul', [x, builder.scalar(1.702)])]);
  return builder.op('Mul', [x, gate]);
}
