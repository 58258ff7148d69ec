import type { Executor, ExecutorState, Tensor } from '../../src/program/executor.ts';

/**
 * An executor for tests of the trainer: graph `tower` is y = x w with one output column, graph `heads` gives the parameter
 * `heads.bias`. AdamW as usual, plain loops.
 */
export function linearExecutor(width: number): Executor {
  const total = width + 1;
  let state: ExecutorState = {
    step: 0,
    parameters: Float32Array.from({ length: total }, (_, i) => Math.cos(i)),
    first: new Float32Array(total),
    second: new Float32Array(total),
  };
  let gradients = new Float32Array(total);
  const copy = ({ step, parameters, first, second, ema }: ExecutorState): ExecutorState => ({
    step,
    parameters: parameters.slice(),
    first: first.slice(),
    second: second.slice(),
    ...(ema && { ema: ema.slice() }),
  });
  return {
    kind: 'linear',
    parameters: [
      { name: 'tower.w', dims: [width, 1], offset: 0, length: width },
      { name: 'heads.bias', dims: [], offset: width, length: 1 },
    ],
    forward: async (graph, inputs): Promise<Record<string, Tensor>> => {
      if (graph === 'heads') {
        return { bias: { type: 'float32', dims: [], data: state.parameters.slice(width) } };
      }
      const x = inputs.x!;
      const rows = x.dims[0]!;
      const data = new Float32Array(rows);
      for (let i = 0; i < rows; i++) {
        for (let k = 0; k < width; k++) data[i]! += (x.data[i * width + k] as number) * state.parameters[k]!;
      }
      return { y: { type: 'float32', dims: [rows, 1], data } };
    },
    backward: async (_graph, inputs, outputGradients) => {
      const x = inputs.x!;
      const dy = outputGradients.y as Tensor;
      for (let i = 0; i < x.dims[0]!; i++) {
        for (let k = 0; k < width; k++)
          gradients[k]! += (x.data[i * width + k] as number) * (dy.data[i] as number);
      }
    },
    addGradient: async (_name, value) => {
      gradients[width]! += (value as Float32Array)[0]!;
    },
    update: async ({ rate, decay, betas, epsilon, clip, ema }) => {
      const gradientNorm = Math.hypot(...gradients);
      const factor = clip !== undefined && gradientNorm > clip ? clip / gradientNorm : 1;
      const step = ++state.step;
      if (ema !== undefined) state.ema ??= state.parameters.slice();
      for (let i = 0; i < total; i++) {
        const g = gradients[i]! * factor;
        state.first[i] = betas[0] * state.first[i]! + (1 - betas[0]) * g;
        state.second[i] = betas[1] * state.second[i]! + (1 - betas[1]) * g * g;
        const m = state.first[i]! / (1 - betas[0] ** step);
        const v = state.second[i]! / (1 - betas[1] ** step);
        const wear = i < width ? rate * decay * state.parameters[i]! : 0;
        state.parameters[i]! -= wear + (rate * m) / (Math.sqrt(v) + epsilon);
        if (ema !== undefined) state.ema![i] = ema * state.ema![i]! + (1 - ema) * state.parameters[i]!;
      }
      gradients = new Float32Array(total);
      return { gradientNorm };
    },
    save: async () => copy(state),
    load: async (saved) => {
      state = copy(saved);
    },
    dispose: async () => {},
  };
}
